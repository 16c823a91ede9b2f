"""Crops of images, cut by background threads into buffers that are used again and again.

Copying rows and decoding JPEG release Python's lock, so that threads suffice. With a GPU, buffers are pinned:
one is copied there in a stream of its own, while the GPU computes, and filled again once the copy is done.
"""

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet2gpu.data.images import Images
from alexnet2gpu.ranks.machine import cores

BATCHES_AHEAD = 2  # that are being cut while one is used
SMALL_BATCH = 2**18  # bytes
MOST_THREADS = 16  # unless a config asks for more: one copies some 7,500 crops of 224x224 a second


def threads_for(device: torch.device, ranks: int) -> int:
    """How many cut crops by default, of a rank of so many on this machine. Without a GPU, cores compute."""
    return 2 if device.type == "cpu" else min(MOST_THREADS, max(1, cores() // ranks))


class Corners(NamedTuple):
    """The crops of a batch: indices of images (B,), and each crop's upper left corner, top and left (B,)."""

    indices: np.ndarray
    top: np.ndarray
    left: np.ndarray


def cut_crops(images: Images, corners: Corners, out: np.ndarray) -> None:
    """Copy crops into `out` (B, crop, crop, C) uint8, as rows of bytes: less to loop over. An image that
    follows itself, as another view, is read once."""
    count, crop, _, channels = out.shape
    if is_plain(images.pixels) and images.pixels.shape[1:] == out.shape[1:]:
        # whole images; with another mode, numpy would fill a copy of `out` first
        np.take(np.asarray(images.pixels), corners.indices, 0, out, mode="clip")
        return
    out = out.reshape(count, crop, crop * channels)  # a view
    before = None
    for number, (i, y, x) in enumerate(zip(*(array.tolist() for array in corners))):
        if i != before:
            image, before = images.pixels[i, :], i
        rows = image[y : y + crop].reshape(crop, -1)
        out[number] = rows[:, x * channels : (x + crop) * channels]


def is_plain(pixels: Any) -> bool:
    """Whether it is an array that lies in memory in order: others would be copied as a whole."""
    return isinstance(pixels, np.ndarray) and pixels.flags.c_contiguous


def cut_ahead(
    images: Images, batches: Iterable[Corners], crop: int, threads: int, stream: torch.cuda.Stream | None
) -> Iterator[Tensor]:
    """The crops (B, crop, crop, C) uint8 of each of `batches`, in order, cut ahead of time: on the GPU of the
    stream, or on the CPU, where what is given holds until the next is asked for."""
    # a thread that waits for a copy would open a context on GPU 0 otherwise, half a GB of it for every rank
    begin = (torch.cuda.set_device, (stream.device,)) if stream else ()
    pool = ThreadPoolExecutor(threads, "crops", *begin)
    pending, free = collections.deque(), collections.deque()
    try:
        for corners in batches:
            buffer = free.popleft() if free else _Buffer(images, len(corners.indices), crop, stream)
            buffer.start(corners, pool, threads)
            pending.append(buffer)
            if len(pending) > BATCHES_AHEAD:
                buffer = pending.popleft()
                yield buffer.finish()
                free.append(buffer)
        while pending:
            yield pending.popleft().finish()
    finally:
        pool.shutdown(cancel_futures=True)


class _Buffer:
    """Room for the crops of one batch, of `count` images or fewer."""

    def __init__(self, images, count, crop, stream):
        shape, pinned = (count, crop, crop, images.pixels.shape[3]), stream is not None
        self.images, self.stream = images, stream
        self.whole = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self.copied = torch.cuda.Event() if pinned else None

    def start(self, corners, pool, threads):
        """Start the threads, each on its part of a batch; or cut a small one at once, which takes less than
        handing it over."""
        count = len(corners.indices)
        self.batch, self.tasks = self.whole[:count], []
        if is_plain(self.images.pixels) and self.batch.nbytes <= SMALL_BATCH:
            self._cut(corners, slice(count))
            return
        share = -(-count // threads)
        parts = [slice(first, first + share) for first in range(0, count, share)]
        self.tasks = [pool.submit(self._cut, corners, part) for part in parts]

    def _cut(self, corners, part):
        if self.copied is not None:  # the last batch may still be on its way to the GPU
            self.copied.synchronize()
        cut_crops(self.images, Corners(*(array[part] for array in corners)), self.batch.numpy()[part])

    def finish(self):
        """The batch, (count, crop, crop, C), on the device."""
        for task in self.tasks:
            task.result()
        if self.stream is None:
            return self.batch
        current = torch.cuda.current_stream(self.stream.device)
        with torch.cuda.stream(self.stream):
            pixels = self.batch.to(self.stream.device, non_blocking=True)
            self.copied.record()
        current.wait_event(self.copied)  # what is computed from now on, not the CPU
        pixels.record_stream(current)  # its memory is not used again before that is done
        return pixels
