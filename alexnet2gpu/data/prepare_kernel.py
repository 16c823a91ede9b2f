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
    moved,
    mean,
    out,
    divisor,
    factor,
    STRIDE: tl.constexpr,
    ROW: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of one crop, in the order in which it lies: row by row, channels last."""
    blocks: tl.constexpr = (ROWS * ROW + BLOCK - 1) // BLOCK
    number = tl.program_id(0) // blocks
    i = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside, c, x = i < ROWS * ROW, i % CHANNELS, i % ROW
    x = tl.where(tl.load(where + 2 * number + 1) != 0, ROW - CHANNELS - x + 2 * c, x)
    corner = source + tl.load(where + 2 * number)
    pixel = tl.load(corner + i // ROW * STRIDE + x, mask=inside, other=0).to(tl.float32)
    if mean is None and moved is None:
        value = tl.div_rn(pixel, divisor)
    elif mean is None:
        value = tl.fma(pixel, factor, tl.load(moved + number * CHANNELS + c))
    else:
        added = tl.div_rn(-tl.load(mean + i, mask=inside, other=0.0), divisor)
        if moved is not None:
            added += tl.load(moved + number * CHANNELS + c)
        value = tl.fma(pixel, factor, added)
    tl.store(out + number.to(tl.int64) * (ROWS * ROW) + i, value, mask=inside)


def prepare(
    source: Tensor, where: Tensor, moved: Tensor | None, mean: Tensor | None, divisor: float, out: Tensor
) -> None:
    """Fill `out` (B, C, crop, crop) float32, channels last in memory.

    Args:
        source: (N, H, W, C) uint8.
        where: (B, 2) int64, of each crop the place in `source` where it starts, and whether it is mirrored.
        moved: (B, C) float32, how far its colour moves, divided already; None for nowhere.
        mean: (crop, crop * C) float32, to subtract; None for none.
    """
    channels, crop = source.shape[3], out.shape[2]
    row = crop * channels
    constants = {"STRIDE": source.stride(1), "ROW": row, "ROWS": crop, "CHANNELS": channels, "BLOCK": BLOCK}
    programs = len(out) * triton.cdiv(crop * row, BLOCK)
    with torch.cuda.device_of(source):
        _prepare[(programs,)](source, where, moved, mean, out, divisor, 1 / divisor, **constants)
