"""A training step in any mode, measured: as many processes as the mode takes, two steps, figures.

    single   all towers on one rank                                        1 rank
    split    the towers over ranks                                         a rank per tower
    ddp      a whole replica on every rank                                 a rank per replica
    grid     replicas, each split                                          towers x replicas
    fsdp     what a user of torch would take today: weights, gradients
             and momentum in parts, gathered layer by layer (FSDP2)        as ddp

Images are random: memory does not depend on what is in them. The second step is measured, since DDP settles
its buckets after the first.
"""

import os
import signal
from functools import partial

import torch
from torch import Tensor

from alexnet2gpu.config.keys import Config
from alexnet2gpu.memory import report
from alexnet2gpu.memory.predicted.step import Prediction, predict_step
from alexnet2gpu.model.device import gpus
from alexnet2gpu.model.norm.layer import has_kernels
from alexnet2gpu.model.optim import set_rates
from alexnet2gpu.model.step import train_step, weight_dtype
from alexnet2gpu.ranks.assemble import Parts, assemble
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.machine import out_of_memory
from alexnet2gpu.ranks.modes import grid_of

MODES = ("single", "split", "ddp", "grid", "fsdp")
SPLIT, REPLICATED = ("split", "grid"), ("ddp", "grid", "fsdp")
OUT_OF_MEMORY = 70  # the exit status of a rank


def shape_of(mode: str, towers: int, replicas: int) -> tuple[int, int, int]:
    """Towers on a rank, ranks in a replica, replicas. Raises: ValueError if so many towers or replicas do not
    make this mode."""
    if mode in SPLIT and towers == 1:
        raise ValueError(f"--modes {mode}: a network of 1 tower cannot be split: leave it out")
    if mode in REPLICATED and replicas < 2:
        raise ValueError(f"--modes {mode}: has 2 replicas or more, --replicas is {replicas}")
    held, span = (1, towers) if mode in SPLIT else (towers, 1)
    return held, span, replicas if mode in REPLICATED else 1


def predict(mode: str, config: Config, replicas: int, on_gpu: bool) -> Prediction | None:
    """The prediction for any rank of the mode, all being alike; none for fsdp. For this machine, if it is of
    the kind that `on_gpu` says; else for a GPU that has Triton."""
    if mode == "fsdp":
        return None
    elsewhere = on_gpu and not gpus()
    kernel = elsewhere or has_kernels("cuda" if on_gpu else "cpu")
    return predict_step(config, *shape_of(mode, config.model.towers, replicas), on_gpu, kernel)


def measure(mode: str, config: Config, replicas: int, limit: int | None) -> list[dict]:
    """Measure a step on the ranks of a mode, started for it. On a GPU, a rank's allocator may take `limit`
    bytes; None: all that there are.

    Returns: the ranks' entries of memory.json (report.py), each with its `moments`; an empty list if the
        memory of a GPU did not suffice.

    Raises: ValueError if the system stopped a rank, as it does when the machine's own memory is spent;
        RuntimeError, after the rank's traceback, if anything else went wrong.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _, span, copies = shape_of(mode, config.model.towers, replicas)
    here = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "memory", "max_restarts": 0}
    launch = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=span * copies, **here)
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
    grid = grid_of(config.model.towers, mode in SPLIT, mode in REPLICATED)
    try:
        with Ranks(grid, config.train.threads, config.train.keep_memory) as ranks:
            if limit is not None and ranks.device.type == "cuda":
                whole = torch.cuda.get_device_properties(ranks.device).total_memory
                torch.cuda.set_per_process_memory_fraction(min(1, limit / whole), ranks.device)
            return second_step(mode, config, ranks)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        os._exit(OUT_OF_MEMORY)  # at once: gloo's threads may abort a usual exit


def second_step(mode, config, ranks):
    """The second of two steps, measured."""
    parts, batch = parts_of(mode, config, ranks), random_batch(config, ranks)
    step = partial(train_step, parts.replicated, parts.optimizer, *batch, config.train.precision)
    parts.model.seed_dropout(config.train.seed, ranks.grid.replica, 0)
    step()
    parts.model.seed_dropout(config.train.seed, ranks.grid.replica, 1)
    _, entry, moments = report.measure(step, parts, batch, config, ranks, mode != "fsdp")
    return entry | {"moments": moments}


def parts_of(mode: str, config: Config, ranks: Ranks) -> Parts:
    """What a step of a mode works on, at the first epoch's rates."""
    parts = assemble(config, ranks, partial(shard_fully, ranks=ranks) if mode == "fsdp" else None)
    set_rates(parts.optimizer, config.optim.schedule, 1)
    return parts


def random_batch(config: Config, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Random images (B, C, H, W), channels last as from data/batches.py, and labels (B,) of a replica, the
    same on every rank."""
    count, draw = config.train.batch // ranks.grid.replicas, torch.Generator().manual_seed(0)
    images = 60 * torch.randn(count, *config.model.input, generator=draw)
    images = images.contiguous(memory_format=torch.channels_last)
    images = images.to(ranks.device, weight_dtype(config.train.precision))
    (*_, classifier) = config.model.stages[-1].values()
    labels = torch.randint(classifier.out, (count,), generator=draw).to(ranks.device)
    return images, labels


def shard_fully(model, ranks):
    """FSDP2 as its tutorial has it, in place: every layer with weights, then the rest."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    model.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other
    mesh = DeviceMesh.from_group(ranks.replica_group, ranks.device.type)
    for tower in model.towers.values():
        for layer in tower.children():
            if list(layer.parameters()):
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
