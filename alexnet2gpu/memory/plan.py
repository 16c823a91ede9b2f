"""What to predict or measure: modes, each with batches, or with the largest that fits a budget."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import trace
from alexnet2gpu.memory.any_mode import MODES, predict, shape_of
from alexnet2gpu.model.step import weight_dtype
from alexnet2gpu.ranks.machine import memory
from alexnet2gpu.ranks.modes import Grid


def check_memory(config: Config, grid: Grid) -> None:
    """Raises: ValueError if, without GPU, the ranks of this machine cannot hold as much as their
    weights, gradients and momentum. What else a step needs is for `predict` to say."""
    parameters = sum(row.parameters for row in trace(config.model)) * len(grid.towers)
    size = weight_dtype(config.train.precision).itemsize
    needed, there = 3 * size * parameters * grid.local_world, memory()
    if needed > there and not torch.cuda.is_available():
        raise ValueError(
            f"weights, gradients and momentum take {needed / 2**30:,.0f} GiB, and this machine "
            f"has {there / 2**30:,.0f}: make layers of model.stages smaller"
        )


def with_train(config: Config, **keys) -> Config:
    """The config with other keys in its section `train`."""
    return replace(config, train=replace(config.train, **keys))


def modes_of(config: Config, known: Sequence[str] = MODES) -> list[str]:
    """Those of the `known` modes that a network of so many towers can have."""
    return [mode for mode in known if config.model.towers > 1 or mode not in ("split", "grid")]


def rows(
    config: Config, modes: Sequence[str], replicas: int, batches: Sequence[int]
) -> Iterator[tuple[str, Config]]:
    """Each mode with each of the batches.

    Raises: ValueError if a batch does not divide by the replicas of a mode.
    """
    for mode in modes:
        copies = shape_of(mode, config.model.towers, replicas)[2]
        for batch in batches:
            if batch % copies:
                raise ValueError(
                    f"batch {batch} does not divide by the {copies} replicas of mode {mode}: "
                    "give other --batches, --replicas or --modes"
                )
            yield mode, with_train(config, batch=batch)


def largest(mode: str, config: Config, replicas: int, budget: int, on_gpu: bool) -> list[int]:
    """The largest batch whose predicted peak fits a budget in bytes, if one does, and the next."""
    copies = shape_of(mode, config.model.towers, replicas)[2]

    def fits(share):
        expected = predict(mode, with_train(config, batch=share * copies), replicas, on_gpu)
        return expected.bytes["peak"] <= budget

    least, most = 0, 1
    while fits(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return [share * copies for share in (least, most) if share]
