"""Max-pooling on GPUs, channels last in memory: one kernel each way.

Forward writes the largest value of each window and its place there, row * kernel + column, in one byte: the
first of equal ones, and as in torch a NaN is larger than any. Backward each pixel looks at the windows that
cover it, at most ceil(kernel / stride)^2, and adds the gradients of those whose largest value it was: nothing
is written twice, so the sum is the same every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512  # elements of a program


@triton.jit
def _elements(HEIGHT: tl.constexpr, WIDTH: tl.constexpr, MAPS: tl.constexpr, BLOCK: tl.constexpr):
    """This program's image, and its elements: places in the image, rows, columns, maps, which exist."""
    COUNT: tl.constexpr = HEIGHT * WIDTH * MAPS
    BLOCKS: tl.constexpr = (COUNT + BLOCK - 1) // BLOCK
    e = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    image = (tl.program_id(0) // BLOCKS).to(tl.int64)
    return image, e, e // MAPS // WIDTH, e // MAPS % WIDTH, e % MAPS, e < COUNT


@triton.jit
def _forward(
    x, y, places, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr, MAPS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image, e, row, column, c, inside = _elements(OUT_HEIGHT, OUT_WIDTH, MAPS, BLOCK)
    top, left = row * STRIDE - PAD, column * STRIDE - PAD
    x += image * (HEIGHT * WIDTH * MAPS)
    corner = (top * WIDTH + left) * MAPS + c
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    place = tl.maximum(-top, 0) * KERNEL + tl.maximum(-left, 0)
    for i in range(KERNEL):
        for j in tl.static_range(KERNEL):
            there = inside & (top + i >= 0) & (top + i < HEIGHT) & (left + j >= 0) & (left + j < WIDTH)
            at = corner + (i * WIDTH + j) * MAPS
            value = tl.load(x + at, mask=there, other=float("-inf")).to(tl.float32)
            larger = (value > largest) | (value != value)
            largest = tl.where(larger, value, largest)
            place = tl.where(larger, i * KERNEL + j, place)
    at = image * (OUT_HEIGHT * OUT_WIDTH * MAPS) + e
    tl.store(y + at, largest.to(y.dtype.element_ty), mask=inside)
    tl.store(places + at, place.to(tl.uint8), mask=inside)


@triton.jit
def _backward(
    of_y, places, of_x, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr, MAPS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    COVER: tl.constexpr = (KERNEL + STRIDE - 1) // STRIDE
    image, e, row, column, c, inside = _elements(HEIGHT, WIDTH, MAPS, BLOCK)
    row, column = row + PAD, column + PAD
    last, right = row // STRIDE, column // STRIDE  # windows that begin at or before the pixel
    row, column = row % STRIDE, column % STRIDE  # the pixel's place in that window
    corner = image * (OUT_HEIGHT * OUT_WIDTH * MAPS) + (last * OUT_WIDTH + right) * MAPS + c
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(COVER):
        in_row = inside & (row + i * STRIDE < KERNEL) & (last >= i) & (last - i < OUT_HEIGHT)
        for j in tl.static_range(COVER):
            there = in_row & (column + j * STRIDE < KERNEL) & (right >= j) & (right - j < OUT_WIDTH)
            at = corner - (i * OUT_WIDTH + j) * MAPS
            place = tl.load(places + at, mask=there, other=0).to(tl.int32)
            gradient = tl.load(of_y + at, mask=there, other=0.0).to(tl.float32)
            mine = place == (row + i * STRIDE) * KERNEL + column + j * STRIDE
            total += tl.where(mine, gradient, 0.0)
    tl.store(of_x + image * (HEIGHT * WIDTH * MAPS) + e, total.to(of_x.dtype.element_ty), mask=inside)


def largest(x: Tensor, y: Tensor, places: Tensor, kernel: int, stride: int, pad: int) -> None:
    """(B, C, H, W) -> y and its places in x, (B, C, H', W') both, to be filled; channels last in memory."""
    _launch(_forward, x.shape, y.shape, (x, y, places), (kernel, stride, pad))


def gradient(of_y: Tensor, places: Tensor, of_x: Tensor, kernel: int, stride: int, pad: int) -> None:
    """(B, C, H', W') both -> of_x (B, C, H, W), to be filled; channels last in memory."""
    _launch(_backward, of_x.shape, of_y.shape, (of_y, places, of_x), (kernel, stride, pad))


def _launch(kernel, shape, out_shape, tensors, window):
    images, maps, *sides = shape
    written = tensors[1] if kernel is _forward else tensors[2]
    programs = images * triton.cdiv(written.shape[1:].numel(), BLOCK)
    with torch.cuda.device_of(written):
        kernel[(programs,)](*tensors, *sides, *out_shape[2:], maps, *window, BLOCK)
