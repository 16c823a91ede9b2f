"""A rank's own part of the network, joined to the others', and its optimizer.

Raises: torch.OutOfMemoryError, from `build_model` and `assemble`, if the GPU cannot hold the weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import trace
from alexnet2gpu.model.graph import GraphedStep
from alexnet2gpu.model.loss_scale import ScaledSGD2012
from alexnet2gpu.model.model import AlexNet, all_here
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.model.precision import ready
from alexnet2gpu.model.step import how_of
from alexnet2gpu.ranks.exchange import exchange, gather_logits
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import CHANNELS
from alexnet2gpu.ranks.overlap import Overlapped
from alexnet2gpu.ranks.regather import Regathering


class Parts(NamedTuple):
    """What a step works on."""

    model: AlexNet  # this rank's towers
    replicated: nn.Module  # what a step calls: the model, or what is around it and averages or sums gradients
    optimizer: SGD2012


def joined(config: Config, ranks: Ranks) -> Callable[..., AlexNet]:
    """AlexNet for towers that meet those of other ranks: by exchanges between stages, and after the last by
    the gathering of logits. With overlap it is a stage's first layer that exchanges."""
    wire = getattr(torch, config.exchange.precision) if config.exchange.precision else None
    *between, last = ranks.connect(config.model, wire)
    logits = partial(gather_logits, link=last) if last else all_here
    if config.memory.regather:
        return partial(Regathering, links=between, logits=logits)
    overlapped = config.exchange.overlap and len(ranks.grid.towers) == 1
    within = [overlapped and link is not None and link.axis == CHANNELS for link in between]

    def wrap(stage, layer):
        return Overlapped(layer, between[stage - 1]) if stage and within[stage - 1] else layer

    joins = [
        partial(exchange, link=link) if link and not inside else all_here
        for link, inside in zip(between, within)
    ]
    return partial(AlexNet, joins=[*joins, logits], wrap=wrap)


def build_model(config: Config, ranks: Ranks) -> AlexNet:
    """The towers of this rank, joined to those of other ranks, on its device and in the type of its
    weights. Raises: ValueError if its GPU lacks the arithmetic."""
    network = joined(config, ranks)
    placement = ranks.grid.placement(config.model)
    model = network(config.model, config.train.seed, placement, config.memory)
    return ready(model, config.train, ranks.device)


def assemble(config: Config, ranks: Ranks, change: Callable[[AlexNet], Any] | None = None) -> Parts:
    """The parts of this rank. `change`, in DDP's place, is done to the model's parameters before the
    optimizer sees them, as FSDP2 does."""
    model, optim = build_model(config, ranks), config.optim
    if change is not None:
        change(model)
    rule = model.named_parameters(), optim.momentum, optim.weight_decay
    if config.train.precision == "float16":
        optimizer = ScaledSGD2012(*rule, ranks.largest)
    else:
        optimizer = ranks.share_momentum(*rule) if optim.zero1 else SGD2012(*rule)
    shared = _shared(model, config.model) if ranks.grid.parts > 1 else ()
    replicated = model if change else ranks.replicate(model, config.memory.gradients_in_buckets, shared)
    return Parts(model, replicated, optimizer)


def _shared(model, network):
    """The parameters of stages that the hybrid replicates."""
    layers = {row.name for row in trace(network) if row.stage < network.convolutional}
    return [parameter for name, parameter in model.named_parameters() if name.split(".")[2] in layers]


def graph_of(parts: Parts, config: Config, ranks: Ranks) -> GraphedStep | None:
    """The step of these parts as a CUDA graph, on one GPU; else None.

    Not where several ranks compute: their graphs would hold collectives, and that is yet to be seen at work
    (docs/gpu.md). Nor where stages are computed again: they set the generators of their masks back, which a
    graph cannot.
    """
    one_gpu = ranks.device.type == "cuda" and ranks.grid.world == 1
    if not (config.train.graph and one_gpu) or config.memory.recompute:
        return None
    return GraphedStep(parts.model, parts.optimizer, how_of(config))
