"""Response normalisation by torch's own operations: on any device, in any layout.

They work on some images at a time, so that temporaries are of their size and lie in the cache: on two cores 2
to 4 times as fast as on a whole batch of 128.
"""

import torch
from torch import Tensor

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.model.device import kind_of


def images_at_once(elements: int, on_gpu: bool) -> int:
    """So many images of `elements` each, at least one."""
    return max(1, 2 ** (22 if on_gpu else 20) // elements)


def normalise(x: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W) -> y, the same shape, type and layout."""
    return _some_at_a_time(_normalised, rule, x)


def gradient(x: Tensor, of_y: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W), and the gradient of y -> that of x, as x is."""
    return _some_at_a_time(_gradient, rule, x, of_y)


def _some_at_a_time(function, rule, *tensors):
    """(B, C, H, W) each -> same: `function` of them, on some images at a time."""
    x = tensors[0]
    count = images_at_once(x.shape[1:].numel(), kind_of(x) == "cuda")
    if len(x) <= count:
        return function(*tensors, rule).to(x.dtype)
    y = torch.empty_like(x)
    for *some, of_y in zip(*(tensor.split(count) for tensor in (*tensors, y))):
        of_y.copy_(function(*some, rule))
    return y


def _normalised(x, rule):
    """y of some images, float32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    denominator = _denominator(wide, rule)
    return _to_minus(rule.beta, denominator, out=denominator).mul_(wide)


def _gradient(x, of_y, rule):
    """dx of some images, float32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    denominator = _denominator(wide, rule)
    direct = _to_minus(rule.beta, denominator).mul_(of_y)
    through_sum = (direct * wide).div_(denominator)
    del denominator  # before the next large tensor is made
    through_sum = window_sum(through_sum, rule).mul_(wide)
    return direct.sub_(through_sum, alpha=2 * rule.alpha * rule.beta)


def _denominator(x, rule):
    return window_sum(x * x, rule).mul_(rule.alpha).add_(rule.k)


def window_sum(x: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W) -> same: sums over the window around each value, fewer at the ends; one dimension of the
    window after the other. Overwrites x if there are two."""
    total = x.clone()
    for number, dim in enumerate((1,) if rule.across_maps else (2, 3)):
        if number:
            x.copy_(total)
        for distance in range(1, min(rule.size // 2, x.shape[dim] - 1) + 1):
            left = x.shape[dim] - distance
            total.narrow(dim, distance, left).add_(x.narrow(dim, 0, left))
            total.narrow(dim, 0, left).add_(x.narrow(dim, distance, left))
    return total


def _to_minus(beta, d, out=None):
    """d^-beta. With the usual 3/4 by two roots, several times faster than the general power; the first of
    them may go into `out`."""
    if beta == 0.75:
        root = torch.rsqrt(d, out=out)
        return root.sqrt().mul_(root)
    return d.pow(-beta)
