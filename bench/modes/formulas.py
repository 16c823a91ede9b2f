"""Bytes that a rank sends in a step, float32, on paper.

P parameters, B images of all ranks together, x the widths of what all towers hold at each join, L logits,
f = (n - 1) / n of n ranks:

    split           4 f (2 x + L) B         a half forward, a gradient of others' halves back; logits forward
    ddp, zero1      8 f P                   a ring: reduce-scatter and all-gather
    grid            as a split over the towers of B / D images, and as ddp over D replicas of P / towers
    fsdp            12 f P                  weights gathered forward and backward, gradients scattered
                                            (16 as counted on gloo)
    hybrid          8 f P of the stages of convolutions, 4 f (2 x + L) B from the join before the first linear
"""

import math

from alexnet2gpu.config.layers import Linear
from alexnet2gpu.config.network import totals, trace


def sent_by_a_rank(mode, network, batch, ranks):
    """Bytes; 0 of one device. Raises: KeyError if there is no formula for the mode."""
    parameters, towers = totals(network)[0], network.towers
    replicas = ranks // towers
    first, convolutions = _hybrid(network)
    formulas = {
        "single": lambda: 0,
        "split": lambda: _exchanged(network, 0, batch, ranks),
        "ddp": lambda: _summed(parameters, ranks),
        "zero1": lambda: _summed(parameters, ranks),
        "grid": lambda: (
            _exchanged(network, 0, batch / replicas, towers) + _summed(parameters / towers, replicas)
        ),
        "fsdp": lambda: 1.5 * _summed(parameters, ranks),
        "hybrid": lambda: _summed(convolutions, ranks) + _exchanged(network, first, batch, ranks),
    }
    return formulas[mode]()


def _exchanged(network, first, images, ranks):
    """Over the joins from number `first` on."""
    widths = {row.stage: network.towers * math.prod(row.gives) for row in trace(network)}
    *joins, logits = widths.values()
    return 4 * (ranks - 1) / ranks * (2 * sum(joins[first:]) + logits) * images


def _summed(parameters, ranks):
    """By a ring."""
    return 8 * (ranks - 1) / ranks * parameters


def _hybrid(network):
    """The join before the first stage with a linear layer, and the parameters of the stages before it."""
    rows = trace(network)
    stage = min((row.stage for row in rows if isinstance(row.layer, Linear)), default=len(network.stages))
    return max(0, stage - 1), network.towers * sum(row.parameters for row in rows if row.stage < stage)
