"""Processes that read, scale and crop photographs, for packing.py to write."""

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from alexnet2gpu.data.images import Moments
from alexnet2gpu.data.pack.folder import Photographs
from alexnet2gpu.data.pack.layout import Form
from alexnet2gpu.data.pack.photograph import read_photograph
from alexnet2gpu.data.pack.stores import decode_jpeg, encode_jpeg

WORK = 16  # photographs that a worker is given


class Workers:
    """`count` processes, as a context manager; they are a few tasks ahead of who takes the results, and no
    more, so that memory does not grow."""

    def __init__(self, count: int):
        self.count = count
        self.pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start_worker)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.shutdown(cancel_futures=True)

    def each(self, photographs: Photographs, first: int, form: Form) -> Iterator:
        """What `_work` returns, some photographs at a time, in order from number `first` on.
        Raises: ValueError if a process was killed."""
        names, pending = islice(photographs, first, None), collections.deque()
        try:
            while some := list(islice(names, WORK)):
                pending.append(self.pool.submit(_work, photographs.folder, some, form))
                if len(pending) > 2 * self.count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise ValueError(
                "a process that decodes was killed, as happens when memory is spent: start again, with fewer "
                "--workers; it goes on where it was"
            ) from None


def _start_worker():
    """Leave Ctrl-C to the main process, and end with it, also if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(folder, some, form):
    """In a worker: contents, labels and sums of the photographs [(name, label)] that can be read; name and
    reason of those that can not, the same wherever the folder is."""
    images, labels, skipped, moments = [], [], [], Moments(form.shape)
    for name, label in some:
        try:
            pixels = read_photograph(folder / name, form.shape, form.grey_bits)
        except ValueError as error:
            skipped.append([name, str(error).removeprefix(f"{folder / name}: ")])
            continue
        content = pixels.tobytes()
        if form.store == "jpeg":
            content = encode_jpeg(pixels, form.quality)
            pixels = decode_jpeg(content, pixels.shape)  # what counts is what will be read
        moments.add(pixels[None])
        images.append(content)
        labels.append(label)
    return images, labels, moments, skipped
