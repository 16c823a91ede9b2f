"""Costs of exchanging activations between ranks, as nodes of autograd (layers.py).

In bytes: `half` of what a rank's tower gives, `sent` of the same as it travels. n ranks; on the CPU they
send messages, on GPUs they use collectives (ranks/link.py).
"""

from dataclasses import dataclass, replace

from alexnet2gpu.memory.predicted.layers import Cost


@dataclass(frozen=True)
class Travel:
    """A half on its way to n - 1 other ranks."""

    n: int
    on_gpu: bool
    half: int
    width: int  # bytes of an element of the half
    sent: int
    views: bool = False  # whether slices of its gradient need no copy to be sent

    @property
    def gathering(self) -> int:
        """What a gather takes besides its result."""
        packed = self.sent if self.on_gpu and self.sent != self.half else 0
        return packed + (self.n if self.on_gpu else self.n - 1) * self.sent


def exchanged(t: Travel) -> Cost:
    """ranks.exchange.exchange."""
    others = (t.n - 1) * t.sent
    packed = 0 if t.views else others
    backward = packed + ((t.n + 2) * t.sent if t.on_gpu else others)
    added = (t.sent if t.on_gpu else others) + t.half
    return replace(gathered(t), gradient=t.half, backward=max(backward, added))


def gathered(t: Travel) -> Cost:
    """ranks.exchange.gather_logits."""
    gives = t.n * t.half
    return Cost(gives=gives, width=t.width, forward=t.gathering + gives)


def overlapped(layer: Cost, t: Travel, dense: bool) -> Cost:
    """ranks.overlap.Overlapped, of a layer that costs `layer` by itself; `dense`: whether it copies each part
    of its weight (model.linear.in_one_piece)."""
    others, changed = (t.n - 1) * t.sent, t.sent != t.half
    incoming = t.n * t.sent if t.on_gpu else others
    leaving = (t.n + 1) * t.sent if t.on_gpu else others  # besides what is packed
    copies = layer.copies[:1]  # of weights, in bfloat16
    packed, widened = (t.sent, t.half) if changed else (0, 0)
    part = (sum(copies) + dense * layer.parameters[0]) // t.n
    forward = packed + incoming + part + sum(layer.copies[1:]) + widened
    inputs = (t.n - 1) * widened + sum(copies)
    gradients = (t.n - 1) * (t.half + packed) + leaving + t.half
    weights = sum(copies or layer.parameters[:1])
    summed = max(2 * weights, sum(copies) + t.half + sum(layer.parameters))
    kept = {"keeps_input": True, "keeps": incoming, "cached": layer.cached[1:], "keeps_cached": False}
    forward, backward = forward + 2 * layer.gives, inputs + gradients + summed
    return replace(layer, **kept, copies=(), forward=forward, gradient=t.half, backward=backward)
