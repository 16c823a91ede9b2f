"""The memory of a training step in any mode, predicted from the config alone: the step is played (play.py).

    single   all towers on one rank                                        1 rank
    split    the towers over ranks                                         a rank per tower, or fewer
    ddp      a whole replica on every rank                                 a rank per replica
    grid     replicas, each split                                          towers x replicas
    hybrid   convolutions as in ddp, fully connected stages as in split    as split
    zero1    ddp, with optim.zero1                                         as ddp
    fsdp     what a user of torch would take today: weights, gradients
             and momentum in parts, gathered layer by layer (FSDP2)        as ddp

Images are random: memory does not depend on what is in them.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alexnet2gpu.config.keys import Config
from alexnet2gpu.memory.any_module import shard
from alexnet2gpu.memory.caching import with_reserved
from alexnet2gpu.memory.play import Estimate, Played, play
from alexnet2gpu.memory.stand_ins import PlayedRanks, fake_mesh
from alexnet2gpu.model.optim import set_rates
from alexnet2gpu.model.precision import weight_dtype
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.assemble import Parts, assemble
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.names import FLAGS
from alexnet2gpu.ranks.torchrun import grid_at, grid_of

SPLIT, REPLICATED = ("split", "grid", "hybrid"), ("ddp", "grid", "zero1", "fsdp")


def first_of(mode: str, towers: int, replicas: int, ranks: int | None = None) -> Grid:
    """The first rank of a mode; `ranks`: that a split or a hybrid goes over, its towers if not given. Raises:
    ValueError if so many towers, replicas or ranks do not make this mode."""
    if mode in SPLIT and towers == 1:
        raise ValueError(f"--modes {mode}: a network of 1 tower cannot be split: leave it out")
    if mode in REPLICATED and replicas < 2:
        raise ValueError(f"--modes {mode}: has 2 replicas or more, --replicas is {replicas}")
    span = {"split": ranks or towers, "hybrid": ranks or towers, "grid": towers}.get(mode, 1)
    if towers % span or mode in SPLIT and span < 2:
        numbers = " or ".join(str(n) for n in range(2, towers + 1) if towers % n == 0)
        raise ValueError(f"--ranks {span}: {towers} towers divide over {numbers}")
    world = span * (replicas if mode in REPLICATED else 1)
    return grid_at(mode, towers, 0, world, 0, world)


def grid_here(mode: str, towers: int) -> Grid:
    """This rank of a mode, as torchrun has started it; zero1 and fsdp have the ranks of ddp. Raises: as
    grid_of."""
    return grid_of(towers, mode if mode in FLAGS else "ddp")


def predict(
    mode: str, config: Config, replicas: int, on_gpu: bool, ranks: int | None = None, limit: float = math.inf
) -> Estimate:
    """What any rank of the mode holds, all being alike; of zero1 the fullest, of FSDP the first. `limit`: of
    what a GPU's allocator may reserve. Raises: ValueError if the mode cannot be, or if fsdp is asked for in a
    process that has a process group."""
    grid = first_of(mode, config.model.towers, replicas, ranks)
    if mode != "fsdp":
        return _play(partial(_played, mode, config, grid), on_gpu, limit)
    with fake_mesh(grid.replicas) as mesh:
        return _play(partial(_played, mode, config, grid, mesh), on_gpu, limit)


def predict_rank(config: Config, grid: Grid, on_gpu: bool) -> Estimate:
    """What a rank holds, as grid_of has it, in any mode but fsdp."""
    return _play(partial(_played, "", config, grid), on_gpu)


def _play(make, on_gpu, limit=math.inf):
    """On a GPU, with what the allocator reserves."""
    return with_reserved(play(make, "cuda"), limit) if on_gpu else play(make)


def _played(mode, config, grid, mesh=None):
    """The step of a rank whose others stand in."""
    ranks = PlayedRanks(grid, fullest=mode == "zero1")
    parts, batch = parts_of(mode, config, ranks, mesh), random_batch(config, ranks)
    parts.model.seed_dropout(config.train.seed, grid.replica, 0)
    weights = list(parts.model.parameters())
    step = partial(train_step, parts.replicated, parts.optimizer, *batch, how_of(config))
    keeps = config.train.accumulate > 1
    if mode == "fsdp" or keeps:  # settles in a first step
        step()
        parts.optimizer.zero_grad(set_to_none=not keeps)
    there = {
        "weights": weights,
        "momentum": [state["velocity"] for state in parts.optimizer.state.values()],
        "gradients": [weight.grad for weight in weights if weight.grad is not None],
        ranks.buckets.kind: ranks.buckets.tensors,  # instead, where gradients lie in them
        "batch": batch,
    }
    return Played(parts.model, parts.optimizer, step, there)


def of_mode(mode: str, config: Config) -> Config:
    """With zero1 as the mode has it, "" being that of the config."""
    zero1 = mode == "zero1" if mode else config.optim.zero1
    return replace(config, optim=replace(config.optim, zero1=zero1))


def parts_of(mode: str, config: Config, ranks: Ranks, mesh: Any = None) -> Parts:
    """What a step of a mode works on, "" being that of the config, at the first epoch's rates. `mesh`: of
    fsdp's ranks, if there is one."""
    config, change = of_mode(mode, config), None
    if mode == "fsdp":
        from torch.distributed.device_mesh import DeviceMesh

        mesh = mesh or DeviceMesh.from_group(ranks.replica_group, ranks.device.type)
        change = partial(shard_fully, mesh=mesh)
    parts = assemble(config, ranks, change)
    set_rates(parts.optimizer, config.optim.schedule, 1)
    return parts


def random_batch(config: Config, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Random images (B / parts, C, H, W), channels last as from data/batches.py, and labels (B,) of a
    replica, the same on every rank."""
    count, draw = config.train.batch // ranks.grid.replicas, torch.Generator().manual_seed(0)
    images = 60 * torch.randn(count // ranks.grid.parts, *config.model.input, generator=draw)
    images = images.contiguous(memory_format=torch.channels_last)
    images = images.to(ranks.device, weight_dtype(config.train.precision))
    labels = torch.randint(config.model.last.out, (count,), generator=draw).to(ranks.device)
    return images, labels


def shard_fully(model, mesh):
    """FSDP2, every layer with weights on its own."""
    model.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other
    shard(model, mesh)
