"""The writing of checkpoints (format.py) in the background, of which some are kept.

A rank's towers as they are at that moment are copied into memory; a thread (runs/writer.py) writes the copy
while training goes on. A checkpoint is written beside its place, flushed to the disk and then renamed: it is
there whole or not at all. Ranks wait for each other through the file system only, so all of them must see the
directory.
"""

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from alexnet2gpu.config.keys import Config
from alexnet2gpu.data.task import MEAN
from alexnet2gpu.faults import files
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.runs.checkpoints.format import (
    FORMAT,
    Best,
    Progress,
    checkpoints_of,
    name_of,
    read_state,
    set_aside,
    step_of,
)
from alexnet2gpu.runs.checkpoints.towers import serialised, snapshot, take_part
from alexnet2gpu.runs.folder import Run


class Saver:
    """Of one rank, for one start of a run.

    Args:
        run: whose checkpoints these are; its metrics are on the disk before one has its name.
        grid: the ranks of replica 0 write their towers, rank 0 makes checkpoints of them.
        config: `train.keep` of the newest checkpoints stay, besides the best.
        about: what else state.json says (resume.py).
        attempt: a word that ranks of this start share, so that those of an earlier one that are still writing
            do no harm; nor, with a number, does the save before.
        mean: what mean.npy has in it, if it is there.
    """

    def __init__(
        self, run: Run, grid: Grid, config: Config, about: Mapping, attempt: str, mean: bytes | None = None
    ):
        self.run, self.about, self.attempt = run, about, attempt
        self.beside = {MEAN: mean} if mean is not None and grid.rank == 0 else {}
        self.keep, self.writes = config.train.keep, grid.replica == 0
        self.own, self.towers = grid.towers, config.model.towers if grid.rank == 0 else None
        self.saves = 0

    def save(self, progress: Progress, model: AlexNet, optimizer: SGD2012) -> None:
        """Begin to write a checkpoint, once the one before is written. Every rank calls it. Raises: what the
        one before has met: OSError, as of a full disk, or ValueError."""
        self.run.writer.wait()
        self.saves += 1  # as on all ranks: a step may be saved twice, without and with evaluation
        if self.writes:
            contents = snapshot(model, optimizer, self.own) | self.beside
            self.run.writer.do(self._write, replace(progress), contents, f"{self.attempt}-{self.saves}")
        elif optimizer.gathers:
            take_part(model, optimizer, self.own)

    def _write(self, progress, contents, attempt):
        folder, noted = self.run.checkpoints, self.run.folder / "run.json"
        state = {"progress": asdict(progress), **self.about}
        with contextlib.suppress(
            FileNotFoundError
        ):  # somebody deletes it: the next will do, or the last again
            try:
                self.run.put_back()
            finally:
                self.run.newest = folder / name_of(progress.step)
            self.run.flush()
            write(folder, progress.step, state, contents, attempt, self.towers, self.run.writer.over)
            if self.towers is not None:
                if not noted.exists():
                    files.write_whole(noted, files.seal({"saved": True}))
                prune(folder, progress.step, self.keep, progress.best)


def write(
    folder: Path,
    step: int,
    state: Mapping,
    contents: Mapping[str, dict | bytes],
    attempt: str,
    towers: int | None,
    over: threading.Event,
) -> None:
    """Write some files, those of towers and what is bytes already; the rank that is told the number of
    `towers` waits until all are there, or until it is `over`, and makes the checkpoint `folder`/step-N of
    them. Raises: OSError if the disk is full, say; then the parts are removed."""
    final = folder / name_of(step)
    partial = folder / f".{final.name}.{attempt}.partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        own = {}
        for name, content in contents.items():
            content = content if isinstance(content, bytes) else serialised(content)
            files.write_whole(partial / name, content)
            own[name] = files.checksum(content)
            if towers is None:
                note = partial / f"{name}.written"  # once it is there, the folder may be renamed
                files.write_whole(note, own[name].encode(), flush_name=False)
        if towers is not None:
            names = [f"tower-{index}.pt" for index in range(towers)]
            others = {
                name: _await_checksum(partial, name, own.keys(), over) for name in names if name not in own
            }
            sums = own | others
            _put({"format": FORMAT, **state, "towers": dict(sorted(sums.items()))}, partial, final)
    except OSError:
        for name in contents:  # other ranks have theirs there; folder.py removes what is left
            (partial / name).unlink(missing_ok=True)
            (partial / f"{name}.written").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            partial.rmdir()
        raise


def _await_checksum(partial, name, own, over):
    """The checksum of a tower's file, once its rank has noted that it is whole. Raises: FileNotFoundError if
    this rank's `own` are gone."""
    note = partial / f"{name}.written"
    while note.name not in (there := os.listdir(partial)):  # `exists` may be of a network's cache
        if not own <= set(there):
            raise FileNotFoundError(errno.ENOENT, "has been deleted", str(partial))
        if over.wait(0.01):
            raise OSError(f"{partial / name}: was not written")
    said = note.read_text()
    note.unlink()
    return said


def _put(state, partial, final):
    """Make a checkpoint of the parts. If there is one of the same step, not evaluated yet, it has the same
    towers, and gets another state."""
    if final.is_symlink():
        final.unlink()  # what it leads to belongs to another run
    if (final / "state.json").exists():
        state = {**state, "towers": read_state(final).towers}
        files.write_whole(final / "state.json", files.seal(state))
        shutil.rmtree(partial)
    else:
        files.write_whole(partial / "state.json", files.seal(state))
        if final.exists():  # its removal was begun
            _remove(final)
        if final.exists():  # somebody has files there
            set_aside(final)
        os.rename(partial, final)
        files.flush_folder(final.parent)


def _remove(checkpoint):
    """Delete its files, and its directory if nothing else is there; of a link, to another run's, the link."""
    with contextlib.suppress(OSError):  # in use by somebody: the next time
        if checkpoint.is_symlink():
            checkpoint.unlink()
            return
        (checkpoint / "state.json").unlink(missing_ok=True)  # first: now it is no checkpoint
        for file in (*checkpoint.glob("tower-*.pt"), checkpoint / MEAN):
            file.unlink(missing_ok=True)
        checkpoint.rmdir()


def prune(folder: Path, step: int, keep: int, best: Best | None) -> None:
    """Remove all but the `keep` newest checkpoints up to `step` and the best, to which `best` then leads."""
    good = name_of(best.step) if best else None
    for old in [place for place in checkpoints_of(folder) if step_of(place) <= step][:-keep]:
        if old.name != good:
            _remove(old)
    if good and (folder / good).exists():
        with contextlib.suppress(OSError):  # some file systems have no links: a convenience
            new = folder / ".best"
            new.unlink(missing_ok=True)
            new.symlink_to(good)
            os.replace(new, folder / "best")
