"""Making a pack (pack.py) of a folder of photographs (photographs.py).

Worker processes read, scale and crop some photographs at a time; this process appends what they
return, in order. Its memory does not grow with the number of photographs. Every few seconds it
notes how far it is; whoever starts again after a kill goes on there (growth.py), so that the
result is the same to the byte however often it was interrupted. It lies in PACK.partial until it
is whole and is then renamed.

What cannot be read is left out, named and counted. On several machines without a common disk, pack
on each before training: whoever has its pack waits for others no longer than ranks wait.
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
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import fcntl
from tqdm import tqdm

from alexnet2gpu.cpu import cores
from alexnet2gpu.data.growth import Form, Growth
from alexnet2gpu.data.images import Moments
from alexnet2gpu.data.pack import PARTS, is_pack, read_sidecar
from alexnet2gpu.data.photographs import Photographs, classes_of, read_square
from alexnet2gpu.data.stores import decode, encode

AT_ONCE = 16  # photographs that a worker is given
ELSEWHERE = "launch/pack.py --out PACK packs elsewhere, and train with --data PACK"


def pack(
    source: Path, target: Path, form: Form, workers: int | None = None, every: float = 5
) -> None:
    """Make the pack `target`, or go on making it; nothing is done if it is there, whatever the
    folder has become since.

    Of several processes that call this, one makes it and the others wait. SIGTERM ends packing and
    waiting at once, as it may: nothing that was noted is lost.

    Args:
        source: has train/ and val/, each with a folder of photographs for every class.
        workers: processes that decode; by default one for each core that may be used.
        every: seconds between two notes of how far it is.

    Raises: ValueError if the folders are not like that, if the disk is too small or cannot be
        written, or if what is or was begun at `target` is of other photographs or in another form.
    """
    begun = target.with_name(target.name + ".partial")
    while not is_pack(target):
        if target.exists():
            raise ValueError(f"{target}: is there, but is not a pack: {ELSEWHERE}")
        classes = classes_of(source)
        try:
            begun.mkdir(parents=True, exist_ok=True)
            with _locked(begun / "lock") as found:
                if found and not is_pack(target):  # which another process may have made meanwhile
                    _pack(source, classes, begun, form, workers or cores(), every)
                    os.rename(begun, target)
                    (target / "lock").unlink()
        except OSError as error:
            raise ValueError(f"{begun}: {error.strerror or error}: {ELSEWHERE}") from None
    shutil.rmtree(begun, ignore_errors=True)  # of a process that came after
    _check_form(target, form)


@contextlib.contextmanager
def _locked(file):
    """Whether the lock file is there still, and held by this process: its folder is renamed when
    it is a whole pack."""
    try:
        lock = open(file, "w")
    except FileNotFoundError:
        yield False
        return
    with lock:
        with _ended_by_sigterm():
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield True


def _check_form(target, form):
    source = read_sidecar(target, PARTS[0])["source"]
    for key, value in asdict(form).items():
        if source[key] != value:
            raise ValueError(f"{target}: is a pack with {key} {source[key]}, not {value}: delete it "
                             "or choose another place")  # fmt: skip


def _pack(source, classes, begun, form, workers, every):
    parts = {part: Photographs(source / part, classes) for part in PARTS}
    _check_room(begun, form, sum(photographs.count for photographs in parts.values()))
    with _ended_by_sigterm(), _Workers(workers) as pool:
        for part, photographs in parts.items():
            _pack_part(part, photographs, begun, form, pool, every)


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
    if progress.skipped:
        tqdm.write(f"{part}/: {len(progress.skipped):,} files could not be read and are left out: "
                   f"{part}.json in the pack lists them", file=sys.stderr)  # fmt: skip


def _work(folder, some, form):
    """In a worker: contents, labels and sums of the photographs [(name, label)] that can be read;
    name and reason of those that can not, the same wherever the folder is."""
    images, labels, skipped = [], [], []
    moments = Moments((form.size, form.size, 3))
    for name, label in some:
        try:
            pixels = read_square(folder / name, form.size)
        except Exception as error:  # Pillow's plugins raise whatever they like
            reason = f"{type(error).__name__}: {error}".replace(str(folder / name), name)
            skipped.append([name, " ".join(reason.split())])
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
    """Leave Ctrl-C to the main process, and end with it, also if it was killed. Pillow's warnings
    say no more than that a photograph is large or its remarks are damaged."""
    warnings.simplefilter("ignore")
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
            f"{free / 1e9:.1f} are free: {ELSEWHERE}; --store jpeg takes about a tenth"
        )
