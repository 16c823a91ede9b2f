"""Rows of a table of memory: modes, each with batches, or with the largest that fits a budget."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import trace
from alexnet2gpu.memory.any_mode import MODES, SPLIT, predict, shape_of
from alexnet2gpu.model.device import gpus
from alexnet2gpu.model.step import weight_dtype
from alexnet2gpu.ranks.machine import memory
from alexnet2gpu.ranks.modes import Grid


def check_memory(config: Config, grid: Grid) -> None:
    """Raises: ValueError if, without GPU, the ranks of this machine cannot hold as much as their weights,
    gradients and momentum. What else a step needs is for `predict` to say."""
    parameters = sum(row.parameters for row in trace(config.model)) * len(grid.towers)
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
    """Those of the `known` modes that a network of so many towers can have."""
    return [mode for mode in known if config.model.towers > 1 or mode not in SPLIT]


def with_batches(mode: str, config: Config, replicas: int, batches: Iterable[int]) -> Iterator[Config]:
    """The config with each batch. Raises: ValueError if one does not divide by the mode's replicas."""
    _, _, copies = shape_of(mode, config.model.towers, replicas)
    for batch in batches:
        if batch % copies:
            raise ValueError(
                f"batch {batch} does not divide by the {copies} replicas of mode {mode}: "
                "give other --batches, --replicas or --modes"
            )
        yield with_train(config, batch=batch)


def largest(mode: str, config: Config, replicas: int, budget: int, on_gpu: bool) -> list[int]:
    """The largest batch whose predicted peak fits a budget in bytes, if one does, and the next."""
    _, _, copies = shape_of(mode, config.model.towers, replicas)

    def peak(share):
        return predict(mode, with_train(config, batch=share * copies), replicas, on_gpu).bytes["peak"]

    most = 1
    while peak(most) <= budget:
        most *= 2
    too_large = bisect_right(range(most), budget, lo=max(1, most // 2), key=peak)
    return [share * copies for share in (too_large - 1, too_large) if share]
