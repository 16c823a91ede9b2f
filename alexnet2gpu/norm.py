"""Response normalisation, across maps (the paper's) or within a map, keeping little for backward.

Written as operations of torch, autograd would keep four tensors of the size of the input; here it
is one function with its own backward, which keeps the input and computes the rest again.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def images_at_once(elements: int, on_gpu: bool) -> int:
    """Normalisation works on some images at a time: temporaries are of their size, and lie in the
    processor's cache (on 2 cores, 2 to 4 times as fast as on a whole batch of 128). So many of
    `elements` each, at least one."""
    return max(1, 2 ** (22 if on_gpu else 20) // elements)


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
        self.keep_all = False  # what autograd would keep of the formula, operation by operation

    def forward(self, x):
        if self.keep_all:
            return self._written_out(x)
        return _ResponseNorm.apply(x, self.window_sum, self.size, self.alpha, self.beta, self.k)

    def _written_out(self, x):
        """As in F.local_response_norm, in float32 or better."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = wide * wide
        if self.window_sum is sum_over_maps:
            half = self.size // 2
            total = F.pad(total.unsqueeze(1), (0, 0, 0, 0, half, half))
            total = F.avg_pool3d(total, (self.size, 1, 1), 1, divisor_override=1).squeeze(1)
        else:
            total = sum_over_pixels(total, self.size)
        total = total * self.alpha + self.k
        return (wide / total**self.beta).to(x.dtype)

    def extra_repr(self):
        constants = f"alpha={self.alpha:.3g}, beta={self.beta}, k={self.k}"
        return f"{self.window_sum.__name__}, size={self.size}, {constants}"


class _ResponseNorm(torch.autograd.Function):
    """y = x d^-beta and dx = g d^-beta - 2 alpha beta x S(g x d^(-beta-1)), d = k + alpha S(x^2).

    S is its own transpose, since the window is symmetric. Only x is kept; d is computed again.
    The arithmetic is float32 or better.
    """

    @staticmethod
    def forward(ctx, x, *constants):
        ctx.save_for_backward(x)
        ctx.constants = constants
        return _some_at_a_time(_normalised, constants, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        of_x = _some_at_a_time(_gradient, ctx.constants, *ctx.saved_tensors, gradient)
        return of_x, None, None, None, None, None


def _some_at_a_time(function, constants, *tensors):
    """(B, C, H, W) each -> same: `function` of them and constants, on some images at a time."""
    x = tensors[0]
    count = images_at_once(x.shape[1:].numel(), x.is_cuda)
    if len(x) <= count:
        return function(*tensors, *constants).to(x.dtype)
    y = torch.empty_like(x)
    for *some, of_y in zip(*(tensor.split(count) for tensor in (*tensors, y))):
        of_y.copy_(function(*some, *constants))
    return y


def _normalised(x, window_sum, size, alpha, beta, k):
    """y of some images, float32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    denominator = _denominator(wide, window_sum, size, alpha, k)
    return _to_minus(beta, denominator, out=denominator).mul_(wide)


def _gradient(x, gradient, window_sum, size, alpha, beta, k):
    """dx of some images, float32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    denominator = _denominator(wide, window_sum, size, alpha, k)
    direct = _to_minus(beta, denominator).mul_(gradient)
    through_sum = (direct * wide).div_(denominator)
    del denominator  # before the next large tensor is made
    through_sum = window_sum(through_sum, size).mul_(wide)
    return direct.sub_(through_sum, alpha=2 * alpha * beta)


def _denominator(x, window_sum, size, alpha, k):
    return window_sum(x * x, size).mul_(alpha).add_(k)


def _to_minus(beta, d, out=None):
    """d^-beta. With the usual 3/4 by two roots, several times faster than the general power; the
    first of them may go into `out`."""
    if beta == 0.75:
        root = torch.rsqrt(d, out=out)
        return root.sqrt().mul_(root)
    return d.pow(-beta)
