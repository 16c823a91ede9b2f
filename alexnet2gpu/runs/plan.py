"""A plan of a run: all that a rank can find out alone, before any waits for another.

All ranks come to the same plan, or mistake: everything that a user can get wrong is looked for here. What
takes minutes is done here too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.load import read_config
from alexnet2gpu.data.batches import check_batch
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import find_statistics
from alexnet2gpu.data.sources import load_experiment
from alexnet2gpu.data.task import Learned, learned_of
from alexnet2gpu.faults import files
from alexnet2gpu.memory.plan import check_memory
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.torchrun import grid_of
from alexnet2gpu.runs import agreement
from alexnet2gpu.runs.checkpoints.pretrained import choose, read_weights
from alexnet2gpu.runs.checkpoints.resume import Start, find_start
from alexnet2gpu.runs.checkpoints.towers import load_towers
from alexnet2gpu.runs.evaluate import check_images
from alexnet2gpu.runs.metrics import check_board
from alexnet2gpu.runs.out import begun_before, check_folder


@dataclass(frozen=True)
class Plan:
    """A run to be done: its config, this rank among all, images to train and to test on, where it starts."""

    config: Config
    grid: Grid
    images: Images
    test: Images
    learned: Learned  # of the images
    start: Start
    folder: Path | None  # None: rank 0 takes a new one, called `name`
    name: str  # of the config and the mode
    told: dict[str, Any]  # what all ranks should have been told: agreement.py


def make_plan(file: str | None, overrides: Sequence[str], mode: str, out: str | None, resume: bool) -> Plan:
    """The plan of launch/train.py's arguments; a run that torchrun has started anew goes on by itself. The
    default of `file` is the config of the run that goes on, or configs/quick.yaml. Raises: ValueError or
    OSError, whatever is wrong."""
    begun = None if resume else begun_before()
    goes_on = resume or begun is not None
    folder = begun or check_folder(out, resume)
    default = folder / "config.yaml" if goes_on else "configs/quick.yaml"
    config = read_config(file or default, overrides)
    grid = grid_of(config.model.towers, mode)
    check_memory(config.of_classes(), grid)
    check_board(config.train)
    config, images, test = load_experiment(config)
    check_batch(config, grid, len(images))
    check_images(test, grid.replicas)
    find_statistics(images, config.data)
    learned = learned_of(images, config.data)
    test = learned.relabelled(test)
    start = find_start(folder, config, learned.task) if goes_on else Start()
    of_all = {"mean image": learned.task.mean}
    if start.checkpoint:
        # whole: find_start has looked
        start.towers = load_towers(start.checkpoint, config.model, grid.held)
    elif config.train.weights_from:
        weights = read_weights(Path(config.train.weights_from))
        start.towers, said = choose(weights, config.model, grid.held, learned.task.names)
        start.remarks.append(said)
        of_all["--from"] = weights.checksums
    name = f"{Path(file or 'quick').stem}-{mode}"
    here = {"--out": str(folder), "mode": mode, "the step to go on from": start.progress.step}
    sets = {"training images": images, "test images": test}
    if config.data.colour:
        of_all["colours"] = files.checksum(np.ascontiguousarray(images.colour_covariance()))
    told = {**agreement.told([config], sets), **of_all, **here}
    return Plan(config, grid, images, test, learned, start, folder, name, told)
