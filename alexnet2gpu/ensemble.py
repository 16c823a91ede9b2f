"""Several trained networks that vote: the mean of their probabilities, as the paper's 5 and 7."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from alexnet2gpu import checkpoint
from alexnet2gpu.ranks.assemble import build
from alexnet2gpu.config.keys import Config
from alexnet2gpu.data.batches import EvaluationBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.evaluate import errors, log_probabilities, mean_errors
from alexnet2gpu.ranks.groups import Ranks


def check_alike(configs: Sequence[Config], places: Sequence[Path], views: int) -> None:
    """Raises: ValueError if networks do not tell the same classes apart in the same images over
    as many towers, or if ten views cannot be cropped from them."""
    for config, place in zip(configs, places):
        if _task(config) != _task(configs[0]):
            raise ValueError(
                f"{place}: cannot be averaged with {places[0]}: {_task(config)} is not "
                f"{_task(configs[0])}"
            )
        if views > 1 and config.data.crop is None:
            raise ValueError(
                f"--views {views}: {place} reads whole images (data.crop null), so there are no "
                "corners to crop: leave --views out"
            )


def _task(config):
    last, data = list(config.model.stages[-1].values())[-1], config.data
    return (
        f"{config.model.towers} towers, {last.out} outputs, data.name {data.name}, "
        f"data.dir {data.dir}, data.size {data.size}"
    )


def average(
    networks: Sequence[tuple[Config, Path]], images: Images, test: Images, ranks: Ranks,
    views: int, tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[dict, dict]]:  # fmt: skip
    """Evaluate one network after the other; only one is in memory at a time, and the sum of the
    probabilities of this replica's images, float64 on the CPU.

    Args:
        networks: the config of each and the directory of its checkpoint.
        images: the training images, of which the mean is subtracted.
        test: the images to classify.
        tick: called after each batch: watch.py.

    Yields: the figures of `mean_errors` of each network alone, and of the mean of all so far; the
        same on every rank.
    """
    total = None
    grid = ranks.grid
    for number, (config, place) in enumerate(networks, 1):
        model = build(config, ranks)
        checkpoint.restore(checkpoint.read(place, config.model, grid.towers), model)
        prepare = Preparation(images, config, ranks.device)
        size = max(1, config.train.batch // grid.replicas)
        batches = EvaluationBatches(test, prepare, size, grid.replica, grid.replicas, views)
        parts = []
        for log_p, labels in log_probabilities(model, batches, config.train.precision):
            parts.append((log_p.cpu(), labels.cpu()))
            tick()
        log_p, labels = (torch.cat(part) for part in zip(*parts))
        total = log_p.exp() if total is None else total.add_(log_p.exp())
        sums = [errors(log_p, labels), errors((total / number).log(), labels)]
        yield tuple(mean_errors(sum_.to(ranks.device), ranks) for sum_ in sums)
        del model
