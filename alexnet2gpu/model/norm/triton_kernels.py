"""Response normalisation across maps on GPUs, one kernel each way: x is read once and y written once;
backward, x and the gradient read, one written.

An element's neighbours lie next to it, channels being last in memory; those that other elements load too come
from the cache. Backward, each of the `size` neighbours needs a sum of its own, so that size^2 values are
loaded: still fewer bytes from memory than keeping the sums would take.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet2gpu.config.layers import NormRule

BLOCK = 1024  # elements


@triton.jit
def _denominator(x, i, c, inside, alpha, k, MAPS: tl.constexpr, HALF: tl.constexpr):
    """k + alpha * the sum of squares around the elements i, which are of the maps c."""
    total = tl.zeros_like(c).to(tl.float32)
    for j in tl.static_range(-HALF, HALF + 1):
        there = inside & (c + j >= 0) & (c + j < MAPS)
        value = tl.load(x + i + j, mask=there, other=0.0).to(tl.float32)
        total += value * value
    return k + alpha * total


@triton.jit
def _to_minus(d, beta, THREE_QUARTERS: tl.constexpr):
    if THREE_QUARTERS:
        root = tl.sqrt_rn(tl.div_rn(1.0, d))
        return root * tl.sqrt_rn(root)
    return tl.exp(-beta * tl.log(d))


@triton.jit
def _normalise(
    x,
    y,
    count,
    alpha,
    beta,
    k,
    MAPS: tl.constexpr,
    HALF: tl.constexpr,
    THREE_QUARTERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c, inside = i % MAPS, i < count
    d = _denominator(x, i, c, inside, alpha, k, MAPS, HALF)
    value = tl.load(x + i, mask=inside, other=0.0).to(tl.float32)
    value *= _to_minus(d, beta, THREE_QUARTERS)
    tl.store(y + i, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gradient(
    x,
    of_y,
    of_x,
    count,
    alpha,
    beta,
    k,
    MAPS: tl.constexpr,
    HALF: tl.constexpr,
    THREE_QUARTERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c, inside = i % MAPS, i < count
    through = tl.zeros_like(c).to(tl.float32)
    direct = tl.zeros_like(c).to(tl.float32)
    for j in tl.static_range(-HALF, HALF + 1):
        there = inside & (c + j >= 0) & (c + j < MAPS)
        d = _denominator(x, i + j, c + j, there, alpha, k, MAPS, HALF)
        value = tl.load(of_y + i + j, mask=there, other=0.0).to(tl.float32)
        value *= _to_minus(d, beta, THREE_QUARTERS)
        beside = value * tl.load(x + i + j, mask=there, other=0.0).to(tl.float32)
        through += tl.where(there, tl.div_rn(beside, d), 0.0)
        if j == 0:
            direct = value
    own = tl.load(x + i, mask=inside, other=0.0).to(tl.float32)
    value = direct - 2 * alpha * beta * own * through
    tl.store(of_x + i, value.to(of_x.dtype.element_ty), mask=inside)


def normalise(x: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W), channels last in memory -> y, as x is."""
    return _launch(_normalise, rule, x)


def gradient(x: Tensor, of_y: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W), channels last in memory, and the gradient of y -> that of x, as x is."""
    of_y = of_y.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return _launch(_gradient, rule, x, of_y)


def _launch(kernel, rule, x, *more):
    result = torch.empty_like(x)
    constants = float(rule.alpha), float(rule.beta), float(rule.k)
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(x.numel(), BLOCK),)](
            x,
            *more,
            result,
            x.numel(),
            *constants,
            MAPS=x.shape[1],
            HALF=rule.size // 2,
            THREE_QUARTERS=rule.beta == 0.75,
            BLOCK=BLOCK,
        )
    return result
