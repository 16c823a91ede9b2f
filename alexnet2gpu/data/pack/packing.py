"""Making a pack (layout.py) of a folder of photographs (folder.py).

Worker processes read, scale and crop some photographs at a time; this process appends what they return, in
order. Its memory does not grow with the number of photographs. Every few seconds it notes how far it is;
whoever starts again after a kill goes on there (growth.py), so that the result is the same to the byte
however often it was interrupted. It lies in PACK.partial until it is whole and is then renamed.

What cannot be read is left out, named and counted. On several machines without a common disk, pack on each
before training: whoever has its pack waits for others no longer than ranks wait.
"""

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from alexnet2gpu.data.pack.folder import read_folder
from alexnet2gpu.data.pack.growth import Growth
from alexnet2gpu.data.pack.layout import PARTS, Form, Part, is_pack, parts_of
from alexnet2gpu.data.pack.photograph import grey_bits_of
from alexnet2gpu.data.pack.workers import Workers
from alexnet2gpu.faults import files
from alexnet2gpu.faults.screen import progress_bar
from alexnet2gpu.ranks.machine import cores

ELSEWHERE = "launch/pack.py --out PACK packs elsewhere, and train with --data PACK"


def make_pack(
    source: Path,
    target: Path,
    form: Form,
    workers: int | None = None,
    every: float = 5,
    to_test: bool = False,
) -> None:
    """Make the pack `target`, or go on making it; nothing is done if it is there, whatever the folder has
    become since. Of several processes that call this, one makes it and the others wait. SIGTERM ends packing
    and waiting at once, as it may: nothing that was noted is lost.

    Args:
        source: a folder as folder.py reads it; `to_test`: all of it, if nothing in it is to train on.
        workers: processes that decode; by default one for each core that may be used.
        every: seconds between two notes of how far it is.

    Raises: ValueError if the folders are not like that, if the disk is too small or cannot be written, or if
        what is or was begun at `target` is of other photographs or in another form.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker that is starting, and would wait for the lock of the process that started it.
        raise ValueError("workers run your script again: put what it does under if __name__ == '__main__':")
    begun = target.with_name(target.name + ".partial")
    while not is_pack(target):
        if target.exists() and not is_pack(target):  # by now
            raise ValueError(f"{target}: is there, but is not a pack: {ELSEWHERE}")
        folder = read_folder(source, to_test)
        try:
            begun.mkdir(parents=True, exist_ok=True)
            with _locked(begun / "lock") as found:
                if found and not is_pack(target):  # which another process may have made meanwhile
                    _pack(source, folder, begun, form, workers or cores(), every)
                    os.rename(begun, target)
                    size = sum(file.stat().st_size for file in target.iterdir())
                    tqdm.write(f"packed into {target}, {size / 1e6:.1f} MB", file=sys.stderr)
                    (target / "lock").unlink()
        except OSError as error:
            place = error.filename or begun
            raise ValueError(f"{place}: {error.strerror or error}: {ELSEWHERE}") from None
    shutil.rmtree(begun, ignore_errors=True)  # of a process that came after
    made = parts_of(target)[0].read_sidecar().source
    for key, value in asdict(form).items():
        if value is not None and made.get(key) != value:
            other = f"{target}: is a pack with {key} {made.get(key)}, not {value}"
            raise ValueError(f"{other}: delete it or choose another place")


@contextlib.contextmanager
def _locked(file):
    """Whether the lock file is there still, and held by this process: its folder is renamed when it is a
    whole pack."""
    try:
        lock = open(file, "w", opener=files.regular)
    except FileNotFoundError:
        yield False
        return
    with lock:
        with _ended_by_sigterm():
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield True


def _pack(source, folder, begun, form, workers, every):
    todo = [(Part(begun, name), *_look(folder, name)) for name in PARTS if folder.part(name)]
    _check_room(begun, form, sum(origin["photographs"] for *_, origin in todo))
    with _ended_by_sigterm():
        every_file = (photographs.folder / name for _, photographs, _ in todo for name, _ in photographs)
        bits = form.grey_bits or grey_bits_of(every_file)
        form = replace(form, grey_bits=bits or 16)
        common = {"folder": os.path.basename(os.path.realpath(source)), **asdict(form)}
        if bits:
            said = f"grey of 16 bits uses {bits} of them: in all photographs the upper 8 stay"
            tqdm.write(said, file=sys.stderr)
        with Workers(workers) as pool:
            for part, photographs, origin in todo:
                _pack_part(part, photographs, origin | common, form, pool, every)


def _look(folder, name):
    """The photographs of a part, and how its sidecar knows them. Raises: ValueError if there are none."""
    photographs = folder.part(name)
    listing, counts = photographs.listing()
    if not counts.any() or (name == "train" and not counts.all()):
        empty = photographs.tops[counts.argmin()] if counts.any() else photographs.folder
        few = ": of one in a class none can be held out" if photographs.held_out else ""
        raise ValueError(f"{empty}: has no photographs{few}")
    return photographs, {"photographs": int(counts.sum()), "listing": listing}


def _check_room(begun, form, count):
    there = sum(file.stat().st_size for file in begun.iterdir())
    needed, free = count * form.size**2 * 3 - there, shutil.disk_usage(begun).free
    if form.store == "raw" and needed > free:
        raise ValueError(
            f"{begun.parent}: {count:,} images take {needed / 1e9:.1f} GB more and {free / 1e9:.1f} are "
            f"free: {ELSEWHERE}; --store jpeg takes about a tenth"
        )


def _pack_part(part, photographs, origin, form, pool, every):
    growth = Growth(part, form, origin)
    if growth.finished:
        return
    progress, noted = growth.progress, time.monotonic()
    bar = progress_bar(origin["photographs"], progress.taken, f"packing {part.name}", unit=" images")
    with growth.opened(), bar:
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
        growth.finish(photographs.classes, with_mean=part.name == "train")
    if progress.skipped:
        left_out = f"{len(progress.skipped):,} files could not be read and are left out"
        tqdm.write(f"{part.name}/: {left_out}: {part.sidecar.name} in the pack lists them", file=sys.stderr)
        read = set(np.fromfile(part.labels, np.int64).tolist())
        lost = [name for label, name in enumerate(photographs.classes) if label not in read]
        if lost and part.name == "train":
            tqdm.write(f"train/: of these classes nothing could be read: {', '.join(lost)}", file=sys.stderr)


@contextlib.contextmanager
def _ended_by_sigterm():
    """The system's own handling of SIGTERM, which launch/train.py puts off (faults/mistakes.py): for what
    takes long, not while mistakes are looked for."""
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
