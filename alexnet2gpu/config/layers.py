"""The kinds of layers as data: their keys in a config, the shapes they give, their weights.

Widths (`out`) count all towers together, as in a paper's table; a tower has `out / n` of n.

    layer       keys (those with no default must be given)       reads -> gives, in one tower
    conv        out, init, kernel, stride 1, pad 0, ceil false,  (C, H, W) -> (out/n, H', W')
                bias 0
    linear      out, init, bias 0                                (F,) -> (out/n,)
                `out: classes`: as many as the images have, rounded up to a multiple of n
    relu, tanh, sigmoid                                          any shape, unchanged
    lrn         size, alpha, beta, k   across neighbouring maps  (C, H, W), unchanged
    map_norm    size, alpha, beta, k   across pixels of a map    (C, H, W), unchanged
    max_pool    kernel, stride 1, pad 0, ceil false              (C, H, W) -> (C, H', W')
    avg_pool    kernel, stride 1, pad 0                          (C, H, W) -> (C, H', W')
    dropout     p, scaling: "2012" or "inverted"                 any shape, unchanged
    flatten                                                      (C, H, W) -> (C*H*W,)

`init` is the standard deviation of the weights, or `xavier`; `bias` is what biases start from. `ceil` rounds
the number of windows up: the last one hangs over the right and lower edge, where it reads zeros (conv) or
nothing (pool).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from alexnet2gpu.config.schema import bounded
from alexnet2gpu.config.text import shape_text

Shape = tuple[int, ...]  # of one image in one tower: (C, H, W) or (F,)


def windows(size: int, kernel: int, stride: int, pad: int, ceil: bool) -> int:
    """How many places a window of `kernel` pixels takes along `size` pixels, `stride` apart.

    With `ceil` the last may hang over the edge, but not start beyond it.
    """
    if not ceil:
        return (size + 2 * pad - kernel) // stride + 1
    number = -(-(size + 2 * pad - kernel) // stride) + 1
    return number - 1 if (number - 1) * stride >= size + pad else number


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer that changes no shape and has no weights, unless a subclass says otherwise. One without keys of
    its own needs no @dataclass."""

    kinds: ClassVar[dict[str, type["Layer"]]]  # what `type:` may say in a config

    def gives(self, reads: Shape, towers: int) -> Shape:
        """The shape that comes out of one of `towers` towers. Raises: ValueError if `reads` is unsuitable."""
        return reads

    def weight_shape(self, reads: Shape, gives: Shape) -> Shape:
        """Shape of the weights, () if there are none. There is one bias per output channel."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Windowed(Layer):
    """A layer that slides a square window over maps."""

    kernel: int = bounded(least=1)
    stride: int = bounded(1, least=1)
    pad: int = bounded(0, least=0)

    def maps(self, channels: int, reads: Shape) -> Shape:
        """(channels, H', W') for maps of shape `reads`, (C, H, W)."""
        _, height, width = _require_maps(reads)
        kernel, pad, ceil = self.kernel, self.pad, getattr(self, "ceil", False)
        sides = [windows(side, kernel, self.stride, pad, ceil) for side in (height, width)]
        if min(sides) < 1 or pad >= kernel:
            raise ValueError(f"a {kernel}x{kernel} window, pad {pad}, does not fit {height}x{width} maps")
        return (channels, *sides)


@dataclass(frozen=True, kw_only=True)
class Conv(Windowed):
    out: int = bounded(least=1, most=2**31 - 1)
    init: float | Literal["xavier"] = bounded(least=0)
    bias: float = 0.0
    ceil: bool = False

    def gives(self, reads, towers):
        return self.maps(_share_out(self.out, towers), reads)

    def weight_shape(self, reads, gives):
        return (gives[0], reads[0], self.kernel, self.kernel)

    def overhang(self, reads: Shape, gives: Shape) -> tuple[int, int]:
        """Pixels by which the last windows hang over the lower and the right edge."""
        covered = [(n - 1) * self.stride + self.kernel - 2 * self.pad for n in gives[1:]]
        return tuple(max(0, c - side) for c, side in zip(covered, reads[1:]))


@dataclass(frozen=True, kw_only=True)
class Linear(Layer):
    out: int | Literal["classes"] = bounded(least=1, most=2**31 - 1)  # keys.py puts a number for `classes`
    init: float | Literal["xavier"] = bounded(least=0)
    bias: float = 0.0

    def gives(self, reads, towers):
        if len(reads) != 1:
            maps = shape_text(reads)
            raise ValueError(f"a linear layer cannot read maps, {maps}: put a flatten layer before it")
        return (_share_out(self.out, towers),)

    def weight_shape(self, reads, gives):
        return (gives[0], reads[0])


class Pool(Windowed):
    """A value for each window of a map."""

    def gives(self, reads, towers):
        if 2 * self.pad > self.kernel:
            raise ValueError(f"pad {self.pad} is more than half of the window, {self.kernel}")
        return self.maps(reads[0], reads)


@dataclass(frozen=True, kw_only=True)
class MaxPool(Pool):
    ceil: bool = False


class AvgPool(Pool):
    """The mean of each window, zeros of the padding included."""


class NormRule(NamedTuple):
    """x / (k + alpha S)^beta, S the sum of x^2 over a window of `size`, odd, around each value: across
    neighbouring maps, or over size x size pixels of the same map."""

    across_maps: bool
    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True, kw_only=True)
class ResponseNorm(Layer):
    """A NormRule, but with alpha/n for alpha, n the number of places in the window: that is how
    nn.LocalResponseNorm and the code of 2012 have it; the paper's formula lacks the division."""

    size: int = bounded(least=1, most=1025)
    alpha: float = bounded(least=0)
    beta: float = bounded(least=0)
    k: float = bounded(least=0)

    def gives(self, reads, towers):
        _require_maps(reads)
        if self.size % 2 == 0:
            raise ValueError(f"size {self.size} has no middle: take an odd one")
        return reads

    @property
    def rule(self) -> NormRule:
        """With the n in alpha."""
        across_maps = isinstance(self, Lrn)
        n = self.size if across_maps else self.size**2
        return NormRule(across_maps, self.size, self.alpha / n, self.beta, self.k)


class Lrn(ResponseNorm):
    """Across `size` neighbouring maps of the same tower: n = size."""


class MapNorm(ResponseNorm):
    """Across `size` x `size` pixels of the same map: n = size^2."""


@dataclass(frozen=True, kw_only=True)
class Dropout(Layer):
    """Sets activations to 0 with probability p while training; model/layers.py has the two scalings."""

    p: float = bounded(least=0, most=1)
    scaling: Literal["2012", "inverted"]


class Relu(Layer):
    """max(x, 0)"""


class Tanh(Layer):
    """tanh(x)"""


class Sigmoid(Layer):
    """1 / (1 + exp(-x))"""


class Flatten(Layer):
    def gives(self, reads, towers):
        return (math.prod(reads),)


Layer.kinds = {"conv": Conv, "linear": Linear, "relu": Relu, "tanh": Tanh, "sigmoid": Sigmoid}
Layer.kinds |= {"lrn": Lrn, "map_norm": MapNorm, "max_pool": MaxPool, "avg_pool": AvgPool}
Layer.kinds |= {"dropout": Dropout, "flatten": Flatten}


def _require_maps(reads):
    if len(reads) != 3:
        raise ValueError(f"needs maps (C, H, W) but reads {shape_text(reads)} features")
    return reads


def _share_out(out, towers):
    if out % towers:
        way_out = "make `out` a multiple, or change model.towers"
        raise ValueError(f"{out} outputs do not divide by {towers} towers: {way_out}")
    return out // towers
