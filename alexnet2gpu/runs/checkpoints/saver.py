"""Writing checkpoints (format.py), in the background, and keeping some of them.

What a rank's towers are at that moment is copied into memory; a thread writes the copy while
training goes on. A checkpoint is written beside its place, flushed to the disk and then renamed:
it is there whole or not at all. Ranks wait for each other through the file system only, so the
directory must be one that all of them see.
"""

import contextlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from alexnet2gpu import __version__
from alexnet2gpu.config.keys import Config
from alexnet2gpu.faults import files
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.runs.checkpoints.format import FORMAT, Progress, note_saved, read_state, snapshot
from alexnet2gpu.runs.folder import Run

SAVE_PATIENCE = 240  # seconds, with a disk, if all wait for it; less than groups.TIMEOUT
SAVE_LEAVE = 20  # seconds, with a disk, after an error


class Saver:
    """Of one rank, for one start of a run, as a context manager.

    Args:
        run: whose checkpoints these are; its metrics are on the disk before one has its name.
        grid: the ranks of replica 0 write their towers, rank 0 makes checkpoints of them.
        config: `train.keep` of the newest checkpoints stay, besides the best.
        about: what else state.json says (resume.py).
        attempt: a word that the ranks of this start share, so that ranks of an earlier one that
            are still writing do no harm; nor, with a number, does the save before.
        tick: called now and then while waiting.
    """

    def __init__(
        self, run: Run, grid: Grid, config: Config, about: Mapping, attempt: str, tick: Callable[[], None]
    ):
        self.run, self.about, self.attempt = run, about, attempt
        self.folder, self.tick, self.keep = run.checkpoints, tick, config.train.keep
        self.writes = grid.replica == 0
        self.towers = config.model.towers if grid.rank == 0 else None
        self.task: Future | None = None
        self.saves = 0
        self.over = threading.Event()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.over.set()  # after an error, ranks that are waited for may never come
        if self.task is not None:
            wait([self.task], timeout=SAVE_LEAVE)

    def save(self, progress: Progress, model: AlexNet, optimizer: SGD2012) -> None:
        """Begin to write a checkpoint, once the one before is written. Every rank calls it.

        Raises: OSError or ValueError that the one before has met, as a full disk.
        """
        self.wait()
        self.saves += 1  # as on all ranks: a step may be saved twice, without and with evaluation
        if self.writes:
            contents = snapshot(model, optimizer)
            now = replace(progress)
            state = {"progress": asdict(now), **self.about}
            attempt = f"{self.attempt}-{self.saves}"
            self.task = _begin(partial(self._write, contents, now, state, attempt))

    def raise_if_failed(self) -> None:
        """Raises: OSError or ValueError, if writing has met one."""
        if self.task is not None and self.task.done():
            done, self.task = self.task, None
            done.result()

    def wait(self) -> None:
        """Return when this rank has written what it began. Raises: OSError, as `raise_if_failed`, and if the
        disk does not get on."""
        until = time.monotonic() + SAVE_PATIENCE
        while self.task is not None:
            wait([self.task], timeout=1)
            self.tick()
            self.raise_if_failed()
            if self.task is not None and time.monotonic() > until:
                raise OSError(
                    f"{self.folder}: no checkpoint could be written in {SAVE_PATIENCE} s: "
                    "the disk does not answer"
                )

    def _write(self, contents, progress, state, attempt):
        self.run.flush()
        write(self.folder, progress.step, state, contents, attempt, self.towers, self.over)
        if self.towers is not None:
            note_saved(self.run.folder)
            prune(self.folder, self.keep, progress.best)


def _begin(function):
    """Call it in a thread that may be left behind, should the disk hang, as those of an executor
    may not. Returns: a future."""
    task = Future()

    def work():
        try:
            task.set_result(function())
        except BaseException as error:
            task.set_exception(error)

    threading.Thread(target=work, name="saver", daemon=True).start()
    return task


def write(
    folder: Path,
    step: int,
    state: Mapping,
    contents: Mapping[str, bytes],
    attempt: str,
    towers: int | None,
    over: threading.Event,
) -> None:
    """Write some towers' files; the rank that is told the number of `towers` waits until all are
    there, or until it is `over`, and makes the checkpoint `folder`/step-N of them.

    Raises: OSError if the disk is full, say; then the parts are removed.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.{attempt}.partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            files.write_whole(partial / name, content)
            note = _note(partial / name)  # once it is there, the folder may be renamed
            files.write_whole(note, files.checksum(content).encode(), flush_name=False)
        if towers is not None:
            names = [f"tower-{index}.pt" for index in range(towers)]
            sums = {name: _await(partial / name, over) for name in names}
            state = {"format": FORMAT, **state, "versions": versions(), "towers": sums}
            _put(state, partial, final)
    except OSError:
        for name in contents:  # other ranks have theirs there; folder.py removes what is left
            (partial / name).unlink(missing_ok=True)
            _note(partial / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            partial.rmdir()
        raise


def _note(tower):
    """Where a tower's rank says that its file is whole, and its checksum."""
    return tower.with_name(f"{tower.name}.written")


def _await(tower, over):
    """The checksum of a tower's file, once its rank has written it."""
    note = _note(tower)
    while note.name not in os.listdir(note.parent):  # `exists` may be of a network's cache
        if over.wait(0.01):
            raise OSError(f"{tower}: was not written")
    said = note.read_text()
    note.unlink()
    return said


def _put(state, partial, final):
    """Make a checkpoint of the parts. If there is one of the same step, which was not evaluated
    yet, it has the same towers, and gets another state."""
    if (final / "state.json").exists():
        state = {**state, "towers": read_state(final)["towers"]}
        files.write_whole(final / "state.json", files.seal(state))
        shutil.rmtree(partial)
    else:
        files.write_whole(partial / "state.json", files.seal(state))
        shutil.rmtree(final, ignore_errors=True)  # if its removal was begun
        os.rename(partial, final)
        files.flush_folder(final.parent)


def versions() -> dict[str, str]:
    """Of what has a part in the numbers."""
    return {
        "alexnet2gpu": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


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
