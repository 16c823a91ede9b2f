"""Response normalisation on GPUs, channels last in memory: each value that a program needs is loaded once.

    across maps      one kernel each way: x is read and y written; backward, x and g read, dx written
    within a map     one kernel forward; backward one for t = g x d^(-beta-1), in float32, then one for
                     dx = g d^-beta - 2 alpha beta x S(t): 9 passes over the tensor altogether. Backward
                     takes some images at a time, so that t is small

Across maps, an element's neighbours lie next to it. Backward needs a sum for each of the `size` neighbours:
computing them anew costs less than passing over them. Within a map a program works on some rows of an image,
the same piece of each, so that their windows share the sums along a row; the neighbours of a place in a row
of W x C values lie C apart.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.model.norm.operations import images_at_once

BLOCK = 512  # elements of a program across maps
PIECE, ROWS = 256, 4  # and within: so many of a row, in so many rows


@triton.jit
def _to_minus(d, beta, THREE_QUARTERS: tl.constexpr):
    """d^-beta and d^-1. Roots are exact to the last bits, and several times faster than a division; what beta
    is more or less than 3/4 loses bits, so it is all that goes through a logarithm."""
    root = tl.rsqrt(d)
    power = root * tl.sqrt(root)
    if not THREE_QUARTERS:
        power *= tl.exp2((0.75 - beta) * tl.log2(tl.minimum(d, 3e38)))  # an infinite d gives 0
    return power, root * root


@triton.jit
def _sum(values, FIRST: tl.constexpr, COUNT: tl.constexpr):
    total = values[FIRST]
    for i in tl.static_range(FIRST + 1, FIRST + COUNT):
        total += values[i]
    return total


@triton.jit
def _elements(count, MAPS: tl.constexpr, BLOCK: tl.constexpr):
    """Where this program's elements start, their distances from there, their maps, which of them exist. Only
    the start needs 64 bits."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    e = tl.arange(0, BLOCK)
    c = ((start % MAPS).to(tl.int32) + e) % MAPS
    return start, e, c, e < tl.minimum(count - start, BLOCK).to(tl.int32)


@triton.jit
def _beside(p, c, inside, MAPS: tl.constexpr, REACH: tl.constexpr):
    """The values up to REACH maps away, 0 where there is no map."""
    values = ()
    for j in tl.static_range(-REACH, REACH + 1):
        there = inside & (c + j >= 0) & (c + j < MAPS)
        values = values + (tl.load(p + j, mask=there, other=0.0).to(tl.float32),)
    return values


@triton.jit
def _squares(values):
    squares = ()
    for i in tl.static_range(len(values)):
        squares = squares + (values[i] * values[i],)
    return squares


@triton.jit
def _across(
    x, y, count, alpha, beta, k, MAPS: tl.constexpr, HALF: tl.constexpr,
    THREE_QUARTERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start, e, c, inside = _elements(count, MAPS, BLOCK)
    values = _beside(x + start + e, c, inside, MAPS, HALF)
    power, _ = _to_minus(k + alpha * _sum(_squares(values), 0, 2 * HALF + 1), beta, THREE_QUARTERS)
    tl.store(y + start + e, (values[HALF] * power).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _across_backward(
    x, of_y, of_x, count, alpha, beta, k, MAPS: tl.constexpr, HALF: tl.constexpr,
    THREE_QUARTERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start, e, c, inside = _elements(count, MAPS, BLOCK)
    values = _beside(x + start + e, c, inside, MAPS, 2 * HALF)
    gradients = _beside(of_y + start + e, c, inside, MAPS, HALF)
    squares, direct = _squares(values), gradients[HALF]
    through = tl.zeros_like(direct)
    for j in tl.static_range(2 * HALF + 1):
        power, inverse = _to_minus(k + alpha * _sum(squares, j, 2 * HALF + 1), beta, THREE_QUARTERS)
        value = gradients[j] * power
        there = (c + j >= HALF) & (c + j < MAPS + HALF)  # d may be 0 beyond
        through += tl.where(there, value * values[j + HALF] * inverse, 0.0)
        if j == HALF:
            direct = value
    value = direct - 2 * alpha * beta * values[2 * HALF] * through
    tl.store(of_x + start + e, value.to(of_x.dtype.element_ty), mask=inside)


@triton.jit
def _piece(HEIGHT: tl.constexpr, ROW: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr):
    """Where this program's image starts, its first row, and its places in a row, of ROW values."""
    PIECES: tl.constexpr = (ROW + PIECE - 1) // PIECE
    GROUPS: tl.constexpr = (HEIGHT + ROWS - 1) // ROWS
    group = tl.program_id(0) // PIECES
    e = tl.program_id(0) % PIECES * PIECE + tl.arange(0, PIECE)
    return (group // GROUPS).to(tl.int64) * (HEIGHT * ROW), group % GROUPS * ROWS, e


@triton.jit
def _window_sums(
    p, row, e, SQUARED: tl.constexpr, HEIGHT: tl.constexpr, ROW: tl.constexpr,
    MAPS: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """For each of ROWS rows, the sums over the windows around its places, of values or of their squares."""
    along = ()
    for j in tl.static_range(-HALF, ROWS + HALF):
        total = tl.zeros_like(e).to(tl.float32)
        for i in tl.static_range(-HALF, HALF + 1):
            at = e + i * MAPS
            there = (row + j >= 0) & (row + j < HEIGHT) & (at >= 0) & (at < ROW)
            value = tl.load(p + (row + j) * ROW + at, mask=there, other=0.0).to(tl.float32)
            total += value * value if SQUARED else value
        along = along + (total,)
    sums = ()
    for j in tl.static_range(ROWS):
        sums = sums + (_sum(along, j, 2 * HALF + 1),)
    return sums


@triton.jit
def _within(
    x, of_y, t, result, alpha, beta, k, STEP: tl.constexpr, HEIGHT: tl.constexpr,
    ROW: tl.constexpr, MAPS: tl.constexpr, HALF: tl.constexpr, THREE_QUARTERS: tl.constexpr,
    PIECE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """STEP 0: y; 1: t; 2: dx of t."""
    image, row, e = _piece(HEIGHT, ROW, PIECE, ROWS)
    sums = _window_sums(x + image, row, e, True, HEIGHT, ROW, MAPS, HALF, ROWS)
    if STEP == 2:
        through = _window_sums(t + image, row, e, False, HEIGHT, ROW, MAPS, HALF, ROWS)
    for j in tl.static_range(ROWS):
        at, there = image + (row + j) * ROW + e, (row + j < HEIGHT) & (e < ROW)
        own = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        power, inverse = _to_minus(k + alpha * sums[j], beta, THREE_QUARTERS)
        if STEP == 0:
            value = own * power
        else:
            value = tl.load(of_y + at, mask=there, other=0.0).to(tl.float32) * power
            if STEP == 1:
                value *= own * inverse
            else:
                value -= 2 * alpha * beta * own * through[j]
        tl.store(result + at, value.to(result.dtype.element_ty), mask=there)


def normalise(x: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W), channels last in memory -> y, as x is."""
    y = torch.empty_like(x)
    if rule.across_maps:
        return _launch_across(_across, rule, x, y)
    return _launch_within(0, rule, x, x, x, y)


def gradient(x: Tensor, of_y: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W), channels last in memory, and the gradient of y -> that of x, as x is."""
    of_y, of_x = of_y.to(x.dtype).contiguous(memory_format=torch.channels_last), torch.empty_like(x)
    if rule.across_maps:
        return _launch_across(_across_backward, rule, x, of_y, of_x)
    some = images_at_once(x.shape[1:].numel(), on_gpu=True)
    t = torch.empty_like(x[:some], dtype=torch.float32)
    for part in zip(x.split(some), of_y.split(some), of_x.split(some)):
        _launch_within(1, rule, *part[:2], part[0], t)
        _launch_within(2, rule, *part[:2], t, part[2])
    return of_x


def _launch_across(kernel, rule, *tensors):
    """Returns: the last of the tensors, filled."""
    x, count = tensors[0], tensors[0].numel()
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(count, BLOCK),)](
            *tensors, count, *_numbers(rule), MAPS=x.shape[1], BLOCK=BLOCK, **_constants(rule)
        )
    return tensors[-1]


def _launch_within(step, rule, *tensors):
    x, (images, maps, height, width) = tensors[0], tensors[0].shape
    programs = images * triton.cdiv(height, ROWS) * triton.cdiv(width * maps, PIECE)
    shape = {"HEIGHT": height, "ROW": width * maps, "MAPS": maps, "PIECE": PIECE, "ROWS": ROWS}
    with torch.cuda.device_of(x):
        _within[(programs,)](*tensors, *_numbers(rule), STEP=step, **shape, **_constants(rule))
    return tensors[-1]


def _numbers(rule):
    return float(rule.alpha), float(rule.beta), float(rule.k)


def _constants(rule):
    return {"HALF": rule.size // 2, "THREE_QUARTERS": rule.beta == 0.75}
