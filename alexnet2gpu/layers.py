"""The layers that torch lacks or does otherwise; `build` makes a module of a layer in a config.

    OverhangConv2d   a convolution whose last window may hang over the edge (`ceil: true`)
    ResponseNorm     across maps (the paper's LRN) or within a map; keeps only its input
    Dropout          with a generator of its own, scaled as in 2012 or as today

None of them looks beyond the channels that it is given, so in a tower none crosses into another
tower.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils import skip_init

from alexnet2gpu import kinds
from alexnet2gpu.kinds import Layer, Shape


def build(layer: Layer, reads: Shape, gives: Shape) -> nn.Module:
    """The module for a layer that reads and gives these shapes; its weights are not yet drawn."""
    match layer:
        case kinds.Conv():
            square = layer.kernel, layer.stride, layer.pad
            module = skip_init(OverhangConv2d, reads[0], gives[0], *square)
            covered = [(n - 1) * layer.stride + layer.kernel - 2 * layer.pad for n in gives[1:]]
            module.overhang = tuple(max(0, c - side) for c, side in zip(covered, reads[1:]))
            return module
        case kinds.Linear():
            return skip_init(nn.Linear, reads[0], gives[0])
        case kinds.MaxPool():
            return nn.MaxPool2d(layer.kernel, layer.stride, layer.pad, ceil_mode=layer.ceil)
        case kinds.AvgPool():
            return nn.AvgPool2d(layer.kernel, layer.stride, layer.pad)
        case kinds.Lrn():
            constants = layer.alpha / layer.size, layer.beta, layer.k
            return ResponseNorm(sum_over_maps, layer.size, *constants)
        case kinds.MapNorm():
            constants = layer.alpha / layer.size**2, layer.beta, layer.k
            return ResponseNorm(sum_over_pixels, layer.size, *constants)
        case kinds.Dropout():
            return Dropout(layer.p, layer.scaling)
        case kinds.Flatten():
            return nn.Flatten()
        case kinds.Relu():
            return nn.ReLU()
        case kinds.Tanh():
            return nn.Tanh()
        case kinds.Sigmoid():
            return nn.Sigmoid()
    raise AssertionError(f"no module for {layer}")


@torch.no_grad()
def draw(module: nn.Module, layer: Layer, generator: torch.Generator) -> None:
    """Draw initial weights, on the CPU in float32; biases are constant.

    `init: xavier` is the uniform distribution of Glorot and Bengio (2010), from -b to b with
    b = sqrt(6 / (fan_in + fan_out)).
    """
    if layer.init == "xavier":
        nn.init.xavier_uniform_(module.weight, generator=generator)
    else:
        module.weight.normal_(0, layer.init, generator=generator)
    module.bias.fill_(layer.bias)


class OverhangConv2d(nn.Conv2d):
    """(B, C, H, W) -> (B, C', H', W'), reading zeros beyond the lower and the right edge.

    With 224 pixels, a kernel of 11 and a stride of 4, 55 windows overhang by 3: as the kernels of
    2012 did it, and why the paper's first layer is 55x55.
    """

    overhang = 0, 0  # pixels below and to the right

    def forward(self, x):
        below, right = self.overhang
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        return super().forward(x)


def sum_over_maps(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> same: sums over `size` (odd) neighbouring maps, fewer at the ends."""
    total = x.clone()
    for distance in range(1, min(size // 2, x.shape[1] - 1) + 1):
        total[:, distance:] += x[:, :-distance]
        total[:, :-distance] += x[:, distance:]
    return total


def sum_over_pixels(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> same: sums over `size` x `size` (odd) pixels, fewer at the edges."""
    return F.avg_pool2d(x, size, stride=1, padding=size // 2, divisor_override=1)


class ResponseNorm(nn.Module):
    """(B, C, H, W) -> same: x / (k + alpha S)^beta, S the sum of x^2 over a window of `size`.

    Here `alpha` multiplies the plain sum. A config's alpha is divided by the number of places
    first, as in nn.LocalResponseNorm and in the code of 2012; the paper's formula lacks the
    division.
    """

    def __init__(self, window_sum, size: int, alpha: float, beta: float, k: float):
        super().__init__()
        self.window_sum, self.size = window_sum, size
        self.alpha, self.beta, self.k = alpha, beta, k

    def forward(self, x):
        return _ResponseNorm.apply(x, self.window_sum, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self):
        constants = f"alpha={self.alpha:.3g}, beta={self.beta}, k={self.k}"
        return f"{self.window_sum.__name__}, size={self.size}, {constants}"


class _ResponseNorm(torch.autograd.Function):
    """y = x d^-beta and dx = g d^-beta - 2 alpha beta x S(g x d^(-beta-1)), d = k + alpha S(x^2).

    S is its own transpose, since the window is symmetric. Only x is kept; d is computed again.
    The arithmetic is float32 or better.
    """

    @staticmethod
    def forward(ctx, x, window_sum, size, alpha, beta, k):
        ctx.save_for_backward(x)
        ctx.constants = window_sum, size, alpha, beta, k
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        power = _to_minus(beta, _denominator(wide, window_sum, size, alpha, k))
        return power.mul_(wide).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        window_sum, size, alpha, beta, k = ctx.constants
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        denominator = _denominator(wide, window_sum, size, alpha, k)
        direct = _to_minus(beta, denominator).mul_(gradient)
        through_sum = window_sum((direct * wide).div_(denominator), size).mul_(wide)
        gradient = direct.sub_(through_sum, alpha=2 * alpha * beta).to(x.dtype)
        return gradient, None, None, None, None, None


def _denominator(x, window_sum, size, alpha, k):
    return window_sum(x * x, size).mul_(alpha).add_(k)


def _to_minus(beta, d):
    """d^-beta. With the usual 3/4 by two roots, several times faster than the general power."""
    if beta == 0.75:
        root = d.rsqrt()
        return root.sqrt().mul_(root)
    return d.pow(-beta)


class Dropout(nn.Module):
    """Training: each activation is 0 with probability p. Two scalings, equal in expectation:

    scaling     training             testing
    2012        mask * x             (1 - p) * x
    inverted    mask * x / (1 - p)   x

    `generator` draws the masks; None is torch's global one.
    """

    def __init__(self, p: float, scaling: str):
        super().__init__()
        self.p, self.scaling, self.generator = p, scaling, None

    def forward(self, x):
        kept = 1 - self.p
        if not self.training:
            return x if self.scaling == "inverted" else x * kept
        mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(kept, generator=self.generator)
        dropped = x * mask
        return dropped / kept if self.scaling == "inverted" and kept else dropped

    def extra_repr(self):
        return f"p={self.p}, scaling={self.scaling}"
