"""What rows a table of memory has: modes, each with batches, or with the largest that fits a budget."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import tensors, trace
from alexnet2gpu.memory.play import Estimate
from alexnet2gpu.memory.predict import SPLIT, first_of, predict
from alexnet2gpu.model.device import gpus
from alexnet2gpu.model.precision import weight_dtype
from alexnet2gpu.ranks.machine import memory
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.names import MODES


def check_memory(config: Config, grid: Grid) -> None:
    """Raises: ValueError if, without GPU, the ranks of this machine cannot hold as much as their weights,
    gradients and momentum; or if the network has nothing to place as the hybrid does. What else a step needs
    is for `predict` to say."""
    placement = grid.placement(config.model)
    parameters = sum(row.parameters * len(placement[row.stage]) for row in trace(config.model))
    size = weight_dtype(config.train.precision).itemsize
    needed, there = 3 * size * parameters * grid.local_world, memory()
    if needed > there and not gpus():
        raise ValueError(
            f"weights, gradients and momentum take {needed / 2**30:,.0f} GiB, and this machine "
            f"has {there / 2**30:,.0f}: make layers of model.stages smaller"
        )


def with_train(config: Config, **keys) -> Config:
    """The config with other keys in its section `train`."""
    return replace(config, train=replace(config.train, **keys))


def modes_of(config: Config, known: Sequence[str] = MODES) -> list[str]:
    """Those of the `known` modes that a network can have."""
    modes = [mode for mode in known if config.model.towers > 1 or mode not in SPLIT]
    return [mode for mode in modes if config.model.mixed or mode != "hybrid"]


class Case(NamedTuple):
    """A row of a table: a mode, and what it is of."""

    mode: str
    config: Config
    replicas: int
    ranks: int | None = None  # that a split goes over; None: one per tower

    @classmethod
    def on(cls, mode: str, config: Config, ranks: int) -> "Case":
        """Of so many ranks in all; of `single` it is one, whatever they are."""
        return cls(mode, config, ranks // config.model.towers if mode == "grid" else ranks, ranks)

    @property
    def first(self) -> Grid:
        """predict.first_of. Raises: ValueError if the mode cannot be."""
        return first_of(self.mode, self.config.model.towers, self.replicas, self.ranks)

    @property
    def parts(self) -> int:
        """Of a batch: shares of it, and the passes of each, or the updates of fully connected stages."""
        parts = self.first.shares * self.config.train.accumulate
        return math.lcm(parts, self.config.optim.fc_updates)

    @property
    def number(self) -> int:
        """Ranks in all."""
        return self.first.world

    @property
    def mistake(self) -> str:
        """What is wrong with the batch, or cannot be in this mode; "" if nothing."""
        config, first = self.config, self.first
        if config.optim.fc_updates > 1 and first.replicas > 1:
            return "has replicas, and optim.fc_updates is not for them"
        if self.mode == "zero1" and config.train.precision == "float16":
            return "is in float16, and zero1 is not"
        if self.mode == "zero1" and first.replicas > tensors(config.model):
            return "has fewer parameters than zero1 has replicas"
        by = config.train.undivided(first.shares)
        if not by and config.train.batch % config.optim.fc_updates:
            by = f"{config.optim.fc_updates} updates (optim.fc_updates)"
        return f"does not divide by {by}" if by else ""

    def with_batch(self, batch: int) -> "Case":
        """The same with another batch."""
        return self._replace(config=with_train(self.config, batch=batch))

    def needs(self, on_gpu: bool, budget: float, batch: int) -> int:
        """What a budget is asked for: the peak, on a GPU what the allocator reserves."""
        return self.with_batch(batch).predict(on_gpu, budget).bytes["reserved" if on_gpu else "peak"]

    def predict(self, on_gpu: bool, limit: float = math.inf) -> Estimate:
        """What a rank holds. `limit`: of what a GPU's allocator may reserve."""
        return predict(self.mode, self.config, self.replicas, on_gpu, self.ranks, limit)


def largest(peak: Callable[[int], int], budget: int, step: int = 1) -> list[int]:
    """The largest multiple of `step` whose `peak` fits a budget, if one does, and the next. Peaks grow nearly
    in proportion, so the next guess lies on the line through the last two; in the middle, if the one before
    left more than half to search."""
    fits, beyond, at = 0, None, {}
    guess, gap = 1, math.inf
    while beyond is None or beyond - fits > 1:
        at[guess] = peak(guess * step)
        if at[guess] <= budget:
            fits = guess
        else:
            beyond = guess
        last, gap = gap, math.inf if beyond is None else beyond - fits
        halve = beyond is not None and gap > last / 2
        guess = (fits + beyond) // 2 if halve else _between(fits, beyond, at, budget)
    return [number * step for number in (fits, beyond) if number]


def _between(fits, beyond, at, budget):
    """A number to try next: above `fits`, below `beyond`, if that is known."""
    known = sorted(at, key=lambda number: abs(at[number] - budget))[:2]
    if len(known) < 2:
        return fits * 2 or 1
    near, far = known
    slope = (at[near] - at[far]) / (near - far)
    guess = round(near + (budget - at[near]) / slope) if slope > 0 else fits * 2
    if beyond is None:
        return min(max(guess, fits + 1 + fits // 8), fits * 64 + 1)
    return min(max(guess, fits + 1), beyond - 1)
