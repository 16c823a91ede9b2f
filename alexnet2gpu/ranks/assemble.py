"""A rank's own part of the network and its optimizer, put together from a config."""

from collections.abc import Callable
from typing import Any

import torch

from alexnet2gpu.config.keys import Config
from alexnet2gpu.ranks.machine import memory
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.config.network import trace
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.model.step import weight_dtype
from alexnet2gpu.ranks.groups import Ranks


def check_memory(config: Config, grid: Grid) -> None:
    """Raises: ValueError if, without GPU, the ranks of this machine cannot hold as much as their
    weights, gradients and momentum. What else a step needs, memory/predict.py knows."""
    parameters = sum(row.parameters for row in trace(config.model)) * len(grid.towers)
    size = torch.finfo(weight_dtype(config.train.precision)).bits // 8
    needed, there = 3 * size * parameters * grid.local_world, memory()
    if needed > there and not torch.cuda.is_available():
        raise ValueError(
            f"weights, gradients and momentum take {needed / 2**30:,.0f} GiB, and this machine "
            f"has {there / 2**30:,.0f}: make layers of model.stages smaller"
        )


def build(config: Config, ranks: Ranks) -> AlexNet:
    """The towers of this rank, joined to those of other ranks, on its device and in the type of
    its weights. The caller replicates them.

    Raises: torch.OutOfMemoryError if the GPU cannot hold the weights.
    """
    links = ranks.connect(len(config.model.stages), config.memory, config.exchange)
    model = AlexNet(config.model, config.train.seed, ranks.grid.towers, config.memory, **links)
    return model.to(ranks.device, weight_dtype(config.train.precision))


def assemble(
    config: Config, ranks: Ranks, change: Callable[[AlexNet], Any] | None = None
) -> tuple[AlexNet, SGD2012]:
    """What `build` gives, and its optimizer.

    Args:
        change: what is done to the model's parameters in place before the optimizer sees them, as
            FSDP2 does; None: they stay as they are.

    Raises: torch.OutOfMemoryError if the GPU cannot hold the weights.
    """
    model = build(config, ranks)
    if change is not None:
        change(model)
    optim = config.optim
    return model, SGD2012(model.named_parameters(), optim.momentum, optim.weight_decay)
