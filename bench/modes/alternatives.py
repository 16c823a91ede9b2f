"""What a user of torch would take today in place of our modes, built of the same network, to be raced and to
have its memory measured and predicted beside them.

    gpipe, 1f1b   a pipeline of two ranks                            pipeline.py
    tensor        DDP for the convolutions, DTensor for the rest     tensor.py

On ranks of a pool (bench/processes.py), each of which calls it alike:

    with Ranks(grid(config)) as ranks:
        alternative = build("tensor", config, ranks)
        loss = alternative.step()

The batch is predict.random_batch's, `train.batch` images over all ranks; weights are those of every mode, and
so are losses where dropout is off.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
from torch import Tensor

from alexnet2gpu.config.keys import Config
from alexnet2gpu.memory.measured import StepMemory
from alexnet2gpu.memory.play import Estimate, Played, play
from alexnet2gpu.memory.predict import random_batch
from alexnet2gpu.memory.stand_ins import PlayedRanks, fake_mesh
from alexnet2gpu.model.optim import SGD2012, local, set_rates
from alexnet2gpu.ranks.cost import MICROBATCHES
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.torchrun import grid_of
from bench.modes.pipeline import SCHEDULES, Pipeline
from bench.modes.tensor import TensorParallel

NAMES = (*SCHEDULES, "tensor")


class Alternative:
    """This rank's part of the step of an alternative, which is as StepMemory takes it.

    parameters   of this rank
    batch        what this rank holds of it
    buffers      where the communication library receives, from the first step on
    """

    def __init__(self, part: Pipeline | TensorParallel, config: Config):
        self.part, self.model, self.replicated = part, part.model, part.replicated
        self.batch, self.seed, self.steps = part.batch, config.train.seed, 0
        rule = config.optim.momentum, config.optim.weight_decay
        self.optimizer = SGD2012(self.model.named_parameters(), *rule)
        set_rates(self.optimizer, config.optim.schedule, 1)

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    @property
    def buffers(self) -> list[Tensor]:
        return list(self.part.buffers)

    def step(self) -> Tensor:
        """An update, as train_step makes it. Returns: (), the mean loss over the global batch."""
        self.model.train()
        self.model.seed_dropout(self.seed, 0, self.steps)
        self.optimizer.zero_grad()
        loss = self.part.backward()
        self.optimizer.halt_unless_finite(loss)
        self.optimizer.step()
        self.steps += 1
        return loss


def grid(config: Config) -> Grid:
    """This rank, by what torchrun says in the environment; it has something of all towers."""
    return grid_of(config.model.towers, "ddp")


def build(
    name: str, config: Config, ranks: Ranks, microbatches: int = MICROBATCHES, mesh: Any = None
) -> Alternative:
    """A rank's part. `mesh`: of the ranks, if there is one. Raises: ValueError if their number, or the batch,
    does not suit it."""
    batch = random_batch(config, SimpleNamespace(grid=Grid(), device=ranks.device))  # of all ranks
    if name == "tensor":
        return Alternative(TensorParallel(config, batch, ranks, mesh), config)
    return Alternative(Pipeline(name, config, batch, ranks, microbatches), config)


def predict(
    name: str, config: Config, rank: int = 0, world: int = 2, microbatches: int = MICROBATCHES
) -> Estimate:
    """What a rank holds in a step: the step itself, played with nothing behind torch's process group. Not
    seen is that gloo holds on to what it sends, for a pipeline one microbatch's features or their gradient.
    Raises: ValueError in a process that has a process group."""
    with fake_mesh(world, rank) as mesh:
        return play(partial(_played, name, config, Grid(rank, world), microbatches, mesh))


def _played(name, config, grid, microbatches, mesh):
    ranks = PlayedRanks(grid)
    ranks.replica_group = dist.group.WORLD
    alternative = build(name, config, ranks, microbatches, mesh)
    alternative.step()  # makes the buffers of a pipeline
    alternative.optimizer.zero_grad()
    there = {
        "weights": alternative.parameters,
        "momentum": [alternative.optimizer.state[weight]["velocity"] for weight in alternative.parameters],
        ranks.buckets.kind: ranks.buckets.tensors,
        "batch": alternative.batch,
        "receive buffers": alternative.buffers,
    }
    return Played(alternative.model, alternative.optimizer, alternative.step, there)


def measure(name: str, config: Config, microbatches: int = MICROBATCHES, watched: int = 3) -> dict[str, int]:
    """On a rank: bytes of a step by category, as measured.py has them, after two others; of the watched ones
    that in which least was held, since a thread of gloo's may let go of a message unseen."""
    found = []
    with Ranks(grid(config), config.train.threads, config.train.keep_memory) as ranks:
        alternative = build(name, config, ranks, microbatches)
        for _ in range(2):
            alternative.step()
        for _ in range(watched):
            with StepMemory(alternative, [*alternative.batch, *alternative.buffers]) as memory:
                alternative.step()
            gradients = sum(local(weight.grad).nbytes for weight in alternative.parameters)
            found.append(memory.bytes | {"gradients": gradients})  # also those that are in no bucket
        del alternative, memory  # what is joined to a group goes before it
    return min(found, key=lambda step: step["peak"])


def losses(name: str, config: Config, steps: int = 3, microbatches: int = MICROBATCHES) -> list[float]:
    """On a rank: of so many steps."""
    with Ranks(grid(config), config.train.threads) as ranks:
        alternative = build(name, config, ranks, microbatches)
        found = [alternative.step().item() for _ in range(steps)]
        del alternative
        return found
