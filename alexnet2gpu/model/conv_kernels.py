"""Images on GPUs as blocks of pixels, channels last in memory: what conv.py convolves.

One pass: a value is read where it is needed, written where it goes, and rounded on the way if blocks are
narrower. Padding, overhang and what blocks lack at the edge are all the same, outside of the image. In a
block, a row of pixels lies in one piece, as in the image.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements of a program


@triton.jit
def _blocks(
    x, out, HEIGHT: tl.constexpr, ROW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr, PIECE: tl.constexpr, ABOVE: tl.constexpr, LEFT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """An image's rows have ROW values, a block's PIECE; ABOVE rows and LEFT values lie before the image."""
    COUNT: tl.constexpr = ROWS * COLUMNS * STRIDE * PIECE
    PROGRAMS: tl.constexpr = (COUNT + BLOCK - 1) // BLOCK
    e = tl.program_id(0) % PROGRAMS * BLOCK + tl.arange(0, BLOCK)
    image = (tl.program_id(0) // PROGRAMS).to(tl.int64)
    block = e // (STRIDE * PIECE)
    row = block // COLUMNS * STRIDE + e // PIECE % STRIDE - ABOVE
    place = block % COLUMNS * PIECE + e % PIECE - LEFT
    there = (e < COUNT) & (row >= 0) & (row < HEIGHT) & (place >= 0) & (place < ROW)
    value = tl.load(x + image * (HEIGHT * ROW) + row * ROW + place, mask=there, other=0.0)
    tl.store(out + image * COUNT + e, value.to(out.dtype.element_ty), mask=e < COUNT)


def blocks(x: Tensor, out: Tensor, stride: int, pad: int) -> None:
    """(B, C, H, W) -> out (B, stride * stride * C, rows, columns), to be filled; channels last in memory."""
    images, maps, height, width = x.shape
    sizes = height, width * maps, *out.shape[2:], stride, stride * maps, pad, pad * maps
    with torch.cuda.device_of(x):
        _blocks[(images * triton.cdiv(out.shape[1:].numel(), BLOCK),)](x, out, *sizes, BLOCK)
