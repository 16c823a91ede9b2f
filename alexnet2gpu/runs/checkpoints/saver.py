"""The writing of checkpoints (format.py) in the background, of which some are kept.

A rank's towers as they are at that moment are copied into memory; a thread writes the copy while training
goes on. A checkpoint is written beside its place, flushed to the disk and then renamed: it is there whole or
not at all. Ranks wait for each other through the file system only, so all of them must see the directory.
"""

import contextlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from alexnet2gpu import __version__
from alexnet2gpu.config.keys import Config
from alexnet2gpu.faults import files
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.runs.checkpoints.format import FORMAT, Progress, read_state, serialised, snapshot
from alexnet2gpu.runs.folder import Run

SAVE_PATIENCE = 240  # seconds, with a disk, if all wait for it; less than groups.TIMEOUT
SAVE_LEAVE = 20  # seconds, with a disk, after an error
VERSIONS = {  # of what has a part in the numbers
    "alexnet2gpu": __version__,
    "torch": torch.__version__,
    "numpy": np.__version__,
    "python": platform.python_version(),
}


class Saver(contextlib.AbstractContextManager):
    """Of one rank, for one start of a run.

    Args:
        run: whose checkpoints these are; its metrics are on the disk before one has its name.
        grid: the ranks of replica 0 write their towers, rank 0 makes checkpoints of them.
        config: `train.keep` of the newest checkpoints stay, besides the best.
        about: what else state.json says (resume.py).
        attempt: a word that ranks of this start share, so that those of an earlier one that are still writing
            do no harm; nor, with a number, does the save before.
        tick: called now and then while waiting.
    """

    def __init__(
        self, run: Run, grid: Grid, config: Config, about: Mapping, attempt: str, tick: Callable[[], None]
    ):
        self.run, self.about, self.attempt, self.tick = run, about, attempt, tick
        self.keep, self.writes = config.train.keep, grid.replica == 0
        self.towers = config.model.towers if grid.rank == 0 else None
        self.thread = self.error = None  # the thread that writes; what it has met
        self.saves, self.over = 0, threading.Event()

    def __exit__(self, *error):
        self.over.set()  # after an error, ranks that are waited for may never come
        if self.thread is not None:
            self.thread.join(SAVE_LEAVE)

    def save(self, progress: Progress, model: AlexNet, optimizer: SGD2012) -> None:
        """Begin to write a checkpoint, once the one before is written. Every rank calls it. Raises: what the
        one before has met: OSError, as of a full disk, or ValueError."""
        self.wait()
        self.saves += 1  # as on all ranks: a step may be saved twice, without and with evaluation
        if self.writes:
            work = replace(progress), snapshot(model, optimizer), f"{self.attempt}-{self.saves}"
            # Of a daemon, which may be left behind, should the disk hang; no executor's thread may.
            thread = threading.Thread(target=self._write, args=work, name="saver", daemon=True)
            thread.start()
            self.thread = thread

    def raise_if_failed(self) -> None:
        """Raises: OSError or ValueError, if writing has met one."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def wait(self) -> None:
        """Return when this rank has written what it began. Raises: as `raise_if_failed`; OSError if the disk
        does not get on."""
        until = time.monotonic() + SAVE_PATIENCE
        while self.thread is not None:
            self.thread.join(timeout=1)
            self.tick()
            if not self.thread.is_alive():
                self.thread = None
            elif time.monotonic() > until:
                waited = f"no checkpoint could be written in {SAVE_PATIENCE} s"
                raise OSError(f"{self.run.checkpoints}: {waited}: the disk does not answer")
        self.raise_if_failed()

    def _write(self, progress, contents, attempt):
        folder, noted = self.run.checkpoints, self.run.folder / "run.json"
        state = {"progress": asdict(progress), **self.about}
        try:
            self.run.flush()
            write(folder, progress.step, state, contents, attempt, self.towers, self.over)
            if self.towers is not None:
                if not noted.exists():
                    files.write_whole(noted, files.seal({"saved": True}))
                prune(folder, self.keep, progress.best)
        except BaseException as error:
            self.error = error


def write(
    folder: Path,
    step: int,
    state: Mapping,
    contents: Mapping[str, dict],
    attempt: str,
    towers: int | None,
    over: threading.Event,
) -> None:
    """Write some towers' files; the rank that is told the number of `towers` waits until all are there, or
    until it is `over`, and makes the checkpoint `folder`/step-N of them. Raises: OSError if the disk is full,
    say; then the parts are removed."""
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.{attempt}.partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for name, tensors in contents.items():
            content = serialised(tensors)
            files.write_whole(partial / name, content)
            note = partial / f"{name}.written"  # once it is there, the folder may be renamed
            files.write_whole(note, files.checksum(content).encode(), flush_name=False)
        if towers is not None:
            names = [f"tower-{index}.pt" for index in range(towers)]
            sums = {name: _await_checksum(partial, name, over) for name in names}
            _put({"format": FORMAT, **state, "versions": VERSIONS, "towers": sums}, partial, final)
    except OSError:
        for name in contents:  # other ranks have theirs there; folder.py removes what is left
            (partial / name).unlink(missing_ok=True)
            (partial / f"{name}.written").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            partial.rmdir()
        raise


def _await_checksum(partial, name, over):
    """The checksum of a tower's file, once its rank has noted that it is whole."""
    note = partial / f"{name}.written"
    while note.name not in os.listdir(partial):  # `exists` may be of a network's cache
        if over.wait(0.01):
            raise OSError(f"{partial / name}: was not written")
    said = note.read_text()
    note.unlink()
    return said


def _put(state, partial, final):
    """Make a checkpoint of the parts. If there is one of the same step, not evaluated yet, it has the same
    towers, and gets another state."""
    if (final / "state.json").exists():
        state = {**state, "towers": read_state(final)["towers"]}
        files.write_whole(final / "state.json", files.seal(state))
        shutil.rmtree(partial)
    else:
        files.write_whole(partial / "state.json", files.seal(state))
        shutil.rmtree(final, ignore_errors=True)  # if its removal was begun
        os.rename(partial, final)
        files.flush_folder(final.parent)


def prune(folder: Path, keep: int, best: Mapping | None) -> None:
    """Remove all but the `keep` newest checkpoints and the best, to which `best` then leads."""
    good = f"step-{best['step']:08.0f}" if best else None
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old.name != good:
            with contextlib.suppress(OSError):  # in use by somebody: the next time
                (old / "state.json").unlink(missing_ok=True)  # first: now it is no checkpoint
                shutil.rmtree(old)
    if good and (folder / good).exists():
        with contextlib.suppress(OSError):  # some file systems have no links: a convenience
            new = folder / ".best"
            new.unlink(missing_ok=True)
            new.symlink_to(good)
            os.replace(new, folder / "best")
