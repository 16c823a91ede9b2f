"""uint8 images on the GPU -> network input, in one pass: cut, mirror, less the mean, colour, scale.

The arithmetic is that of prepare.py in float32: what is added is rounded first, then pixel * factor + added
once, as torch does it on CPUs that have FMA. So a GPU sees what the CPU would, to the bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements


@triton.jit
def _prepare(
    source,
    where,
    offset,
    mean,
    out,
    divisor,
    factor,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CROP: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of one crop, in the order in which it lies: row by row, channels last."""
    number = tl.program_id(0) // BLOCKS
    i = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    inside = i < CROP * CROP * CHANNELS
    c, x, y = i % CHANNELS, i // CHANNELS % CROP, i // (CHANNELS * CROP)
    index, top = tl.load(where + 4 * number), tl.load(where + 4 * number + 1)
    left, flip = tl.load(where + 4 * number + 2), tl.load(where + 4 * number + 3)
    x = tl.where(flip != 0, CROP - 1 - x, x)
    corner = source + ((index * HEIGHT + top) * WIDTH + left) * CHANNELS
    pixel = tl.load(corner + (y * WIDTH + x) * CHANNELS + c, mask=inside, other=0).to(tl.float32)
    if mean is None and offset is None:
        value = tl.div_rn(pixel, divisor)
    else:
        added = tl.zeros_like(pixel)
        if offset is not None:
            added = tl.load(offset + number * CHANNELS + c)
        if mean is not None:
            added += tl.div_rn(-tl.load(mean + i, mask=inside, other=0.0), divisor)
        value = tl.fma(pixel, factor, added)
    tl.store(out + number.to(tl.int64) * (CROP * CROP * CHANNELS) + i, value, mask=inside)


def prepare(
    source: Tensor, where: Tensor, offset: Tensor | None, mean: Tensor | None, divisor: float, out: Tensor
) -> None:
    """Fill `out` (B, C, crop, crop) float32, channels last in memory.

    Args:
        source: (N, H, W, C) uint8.
        where: (B, 4) int64, of each crop the index of its image, its top, its left, whether it is mirrored.
        offset: (B, C) float32, the movement of its colour, divided already; None for none.
        mean: (crop, crop * C) float32, to subtract; None for none.
    """
    _, height, width, channels = source.shape
    crop = out.shape[2]
    blocks = triton.cdiv(crop * crop * channels, BLOCK)
    with torch.cuda.device_of(source):
        _prepare[(len(out) * blocks,)](
            source,
            where,
            offset,
            mean,
            out,
            divisor,
            1 / divisor,
            HEIGHT=height,
            WIDTH=width,
            CROP=crop,
            CHANNELS=channels,
            BLOCKS=blocks,
            BLOCK=BLOCK,
        )
