"""Sets of images that stay on the GPU, as uint8 pixels, where there is room: cutting crops there costs next
to nothing, and needs no threads. JPEG packs stay as they are: decoded, they take ten times their size.
"""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from alexnet2gpu.data.crops import is_plain
from alexnet2gpu.data.images import Images

SHARE = 1 / 4  # of the memory that is free when the weights are there: what a step needs is still to come
PIECE = 2**26  # bytes of pinned memory, through which they go: an order of magnitude more than a DMA needs
PATIENCE = 100  # seconds to read a set: before the first step ranks are given 300 (faults/watch.py)


def keep_those_that_fit(
    sets: Sequence[Images], device: torch.device, ranks: int
) -> list[tuple[Images, Tensor]]:
    """Those of the sets, in their order, that together take no more than this rank's part of SHARE, and the
    pixels of each, (N, H, W, C) uint8 on the device. `ranks` use the GPU, and each may keep copies of its
    own. A set that comes too slowly stays where it is. Raises: ValueError if an image cannot be read."""
    room, kept = SHARE * torch.cuda.mem_get_info(device)[0] / ranks, []
    for images in sets:
        size = math.prod(images.pixels.shape)
        if size <= room and (is_plain(images.pixels) or getattr(images.pixels, "store", None) == "raw"):
            there = _copy(images.pixels, device)
            if there is not None:
                kept.append((images, there))
                room -= size
    return kept


def _copy(pixels, device):
    """All pixels on the device; None if it takes too long."""
    until, there = time.monotonic() + PATIENCE, torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    some = max(1, PIECE // there[0].numel())
    piece = torch.empty(there[:some].shape, dtype=torch.uint8, pin_memory=there.is_cuda)
    for first in range(0, len(there), some):
        part = piece[: len(there) - first]
        for number, image in enumerate(part.numpy(), first):
            image[:] = pixels[number, :]  # a pack compares checksums
        there[first : first + some] = part  # returns when it is there
        if time.monotonic() > until:
            return None
    return there
