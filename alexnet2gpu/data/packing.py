"""Making a pack (pack.py) of a folder of photographs (photographs.py).

Worker processes read, scale and crop some photographs at a time; this process appends what they
return, in order. Its memory does not grow with the number of photographs. Every few seconds it
notes how far it is; whoever starts again after a kill goes on there (growth.py), so that the
result is the same to the byte however often it was interrupted. It lies in PACK.partial until it
is whole and is then renamed.

What cannot be read is left out, named and counted.
"""

import collections
import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import fcntl
from tqdm import tqdm

from alexnet2gpu.data.growth import Form, Growth
from alexnet2gpu.data.images import Moments
from alexnet2gpu.data.pack import PARTS, is_pack
from alexnet2gpu.data.photographs import Photographs, classes_of, read_square
from alexnet2gpu.data.stores import decode, encode

AT_ONCE = 16  # photographs that a worker is given


def pack(
    source: Path, target: Path, form: Form, workers: int | None = None, every: float = 5
) -> None:
    """Make the pack `target`, or go on making it; nothing is done if it is there.

    Of several processes that call this, one makes it and the others wait. SIGTERM ends packing and
    waiting at once, as it may: nothing that was noted is lost.

    Args:
        source: has train/ and val/, each with a folder of photographs for every class.
        workers: processes that decode; by default one for each core.
        every: seconds between two notes of how far it is.

    Raises: ValueError if the folders are not like that, if the disk is too small, or if what was
        begun at `target` is of other photographs or in another form.
    """
    if is_pack(target):
        return
    if target.exists():
        raise ValueError(f"{target}: is there, but is not a pack: choose another place with --out")
    classes = classes_of(source)
    begun = target.with_name(target.name + ".partial")
    begun.mkdir(parents=True, exist_ok=True)
    with open(begun / "lock", "w") as lock:
        with _ended_by_sigterm():
            fcntl.flock(lock, fcntl.LOCK_EX)
        if is_pack(target):  # another process has made it meanwhile
            shutil.rmtree(begun, ignore_errors=True)
            return
        parts = {part: Photographs(source / part, classes) for part in PARTS}
        _check_room(begun, form, sum(photographs.count for photographs in parts.values()))
        with _ended_by_sigterm(), _Workers(workers or os.cpu_count()) as pool:
            for part, photographs in parts.items():
                _pack_part(part, photographs, begun, form, pool, every)
        os.rename(begun, target)
        (target / "lock").unlink()


def _pack_part(part, photographs, begun, form, pool, every):
    origin = {
        "folder": photographs.folder.parent.resolve().name, "photographs": photographs.count,
        "listing": f"sha256 {photographs.listing}", **asdict(form),
    }  # fmt: skip
    growth = Growth(begun / part, form, origin)
    if growth.finished:
        return
    progress = growth.progress
    bar = tqdm(total=photographs.count, initial=progress.taken, desc=f"packing {part}",
               unit=" images", leave=False, dynamic_ncols=True,
               mininterval=0.5 if sys.stderr.isatty() else 10)  # fmt: skip
    with growth, bar:
        noted = time.monotonic()
        for images, labels, moments, skipped in pool.each(photographs, progress.taken, form):
            growth.append(images, labels, moments)
            progress.skipped += skipped
            progress.taken += len(images) + len(skipped)
            bar.update(len(images) + len(skipped))
            if skipped:
                bar.set_postfix_str(f"{len(progress.skipped)} left out", refresh=False)
            if time.monotonic() - noted > every:
                growth.note()
                noted = time.monotonic()
        growth.note()
        growth.finish(photographs.classes, with_mean=part == "train")


def _work(folder, some, form):
    """In a worker: contents, labels and sums of the photographs [(name, label)] that can be read;
    name and reason of those that can not."""
    images, labels, skipped = [], [], []
    moments = Moments((form.size, form.size, 3))
    for name, label in some:
        try:
            pixels = read_square(folder / name, form.size)
        except Exception as error:  # Pillow's plugins raise whatever they like
            skipped.append([name, " ".join(f"{type(error).__name__}: {error}".split())])
            continue
        content = pixels.tobytes()
        if form.store == "jpeg":  # what counts is what will be read
            content = encode(pixels, form.quality)
            pixels = decode(content)
        moments.add(pixels[None])
        images.append(content)
        labels.append(label)
    return images, labels, moments, skipped


class _Workers:
    """Processes that decode, a few tasks ahead of who takes the results."""

    def __init__(self, count: int):
        self.count = count

    def __enter__(self):
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(self.count, context, _start_worker)
        return self

    def __exit__(self, *error):
        self.pool.shutdown(cancel_futures=True)

    def each(self, photographs: Photographs, first: int, form: Form) -> Iterator:
        """The results of `_work` from photograph `first` on, in order."""
        names, pending = islice(photographs, first, None), collections.deque()
        try:
            while some := list(islice(names, AT_ONCE)):
                pending.append(self.pool.submit(_work, photographs.folder, some, form))
                if len(pending) > 2 * self.count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise ValueError(
                "a process that decodes was killed, as happens when memory is spent: start again, "
                "with fewer --workers; it goes on where it was"
            ) from None


def _start_worker():
    """Leave Ctrl-C to the main process, and end with it, also if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _ended_by_sigterm():
    """The system's own handling of SIGTERM, which launch/train.py puts off (mistakes.py): for what
    takes long, not while mistakes are looked for."""
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _check_room(begun: Path, form: Form, count: int):
    there = sum(file.stat().st_size for file in begun.iterdir())
    needed, free = count * form.size**2 * 3 - there, shutil.disk_usage(begun).free
    if form.store == "raw" and needed > free:
        raise ValueError(
            f"{begun.parent}: {count:,} images take {needed / 1e9:.1f} GB more and "
            f"{free / 1e9:.1f} are free: choose another place with --out, or --store jpeg, which "
            "takes about a tenth"
        )
