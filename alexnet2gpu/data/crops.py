"""Crops of images, cut by background threads into buffers that are used again and again.

Copying rows and decoding JPEG release Python's lock, so that threads suffice. A buffer is pinned
where there is a GPU, from which it is copied while the GPU computes.
"""

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet2gpu.data.images import Images

AHEAD = 2  # batches that are being cut while one is used


class Places(NamedTuple):
    """Where the crops of a batch lie: images (B,), and in each the corner, top and left (B,)."""

    images: np.ndarray
    top: np.ndarray
    left: np.ndarray


def cut(images: Images, places: Places, out: np.ndarray) -> None:
    """Copy crops into `out` (B, crop, crop, C) uint8, as rows of bytes: less to loop over."""
    count, crop, _, channels = out.shape
    out = out.reshape(count, crop, crop * channels)  # a view
    for number, (i, y, x) in enumerate(zip(*(array.tolist() for array in places))):
        rows = images.pixels[i, y : y + crop].reshape(crop, -1)
        out[number] = rows[:, x * channels : (x + crop) * channels]


def each_cut(
    images: Images, batches: Iterable[Places], crop: int, threads: int, pinned: bool
) -> Iterator[Tensor]:
    """The crops (B, crop, crop, C) uint8 of each of `batches`, in order, cut ahead of time.

    What is given holds until the next is asked for: whoever copies it to a GPU without waiting
    leaves that copy in the current stream, which is waited for before the buffer is filled again.
    """
    with ThreadPoolExecutor(threads, "crops") as pool:
        pending, free = collections.deque(), []
        try:
            for places in batches:
                buffer = free.pop() if free else _Buffer(images, len(places.images), crop, pinned)
                pending.append(buffer.fill(images, places, pool, threads))
                if len(pending) > AHEAD:
                    yield from _given(pending.popleft(), free)
            while pending:
                yield from _given(pending.popleft(), free)
        finally:
            pool.shutdown(cancel_futures=True)


def _given(buffer, free):
    yield buffer.filled()
    buffer.used()
    free.append(buffer)


class _Buffer:
    def __init__(self, images, count, crop, pinned):
        shape = count, crop, crop, images.pixels.shape[3]
        self.whole = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self.copied = torch.cuda.Event() if pinned else None

    def fill(self, images, places, pool, threads):
        """Start the threads, each on its part of the batch."""
        if self.copied is not None:
            self.copied.synchronize()
        self.count = len(places.images)
        out, share = self.whole.numpy(), -(-self.count // threads)
        parts = [slice(first, first + share) for first in range(0, self.count, share)]
        self.tasks = [
            pool.submit(cut, images, Places(*(array[part] for array in places)), out[part])
            for part in parts
        ]
        return self

    def filled(self):
        for task in self.tasks:
            task.result()
        return self.whole[: self.count]

    def used(self):
        if self.copied is not None:
            self.copied.record()
