"""A training step in any mode, measured: as many processes as the mode takes (predict.py), three steps,
figures of the third, since DDP settles its buckets after the first.
"""

import os
import signal
from functools import partial

import torch

from alexnet2gpu.config.keys import Config
from alexnet2gpu.memory import report
from alexnet2gpu.memory.predict import first_of, grid_here, of_mode, parts_of, random_batch
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.machine import out_of_memory

OUT_OF_MEMORY = 70  # the exit status of a rank


def measure(
    mode: str, config: Config, replicas: int, limit: int | None, ranks: int | None = None
) -> list[dict]:
    """Measure a step on the ranks of a mode, started for it. On a GPU, a rank's allocator may take `limit`
    bytes; None: all that there are.

    Returns: the ranks' entries of memory.json (report.py), each with its `moments`; an empty list if the
        memory of a GPU did not suffice.

    Raises: ValueError if the system stopped a rank, as it does when the machine's own memory is spent;
        RuntimeError, after the rank's traceback, if anything else went wrong.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    number = first_of(mode, config.model.towers, replicas, ranks).world
    here = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "memory", "max_restarts": 0}
    launch = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=number, **here)
    try:
        answers = elastic_launch(launch, step_on_rank)(mode, config, limit)
    except ChildFailedError as error:
        ends = {failure.exitcode for failure in error.failures.values()}
        if OUT_OF_MEMORY in ends:
            return []
        if -signal.SIGKILL in ends:
            raise ValueError(
                f"mode {mode}, batch {config.train.batch}: a rank was killed, as happens when a "
                "machine's memory is spent: try smaller --batches"
            ) from None
        raise RuntimeError(f"mode {mode}: a rank has failed, as is said above") from None
    return [answers[rank] for rank in sorted(answers)]


def step_on_rank(mode, config, limit):
    """This rank's entry of memory.json, with its `moments`. A rank that runs out of a GPU's memory ends, and
    so torch stops the others, who may be waiting for it."""
    grid = grid_here(mode, config.model.towers)
    try:
        with Ranks(grid, config.train.threads, config.train.keep_memory) as ranks:
            if limit is not None and ranks.device.type == "cuda":
                whole = torch.cuda.get_device_properties(ranks.device).total_memory
                torch.cuda.set_per_process_memory_fraction(min(1, limit / whole), ranks.device)
            return third_step(mode, config, ranks)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        os._exit(OUT_OF_MEMORY)  # at once: gloo's threads may abort a usual exit


def third_step(mode, config, ranks):
    """The third step, measured. Under FSDP with gloo some more, of which that counts in which least was held:
    where one of gloo's threads lets a message go last, torch's profiler does not see it."""
    config = of_mode(mode, config)
    parts, batch = parts_of(mode, config, ranks), random_batch(config, ranks)
    step = partial(train_step, parts.replicated, parts.optimizer, *batch, how_of(config))
    watched = 8 if mode == "fsdp" and ranks.device.type == "cpu" else 1
    found = []
    for number in range(2 + watched):
        parts.model.seed_dropout(config.train.seed, ranks.grid.replica, number)
        if number < 2:
            step()
        else:
            _, entry, moments = report.measure(step, parts, batch, config, ranks, mode != "fsdp")
            found.append(entry | {"moments": moments})
    return min(found, key=lambda entry: entry["measured"]["peak"])
