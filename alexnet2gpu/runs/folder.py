"""The directory `runs/NAME/` that a run leaves, written by rank 0.

config.yaml     every key as resolved, loadable again
task.json       the classes, and what else is known of the training images: data/task.py
mean.npy        the mean image, if one is subtracted
metrics.jsonl   every train.log_every steps: step, epoch, loss, error, lr, images_per_second, in float16
                loss_scale; every evaluation: step, epoch, test_loss, top1_error and, of more than five
                classes, top5_error. Losses are means over the global batch and the steps since the last
                line, errors fractions of 1, lr is the rate of the weights
memory.json     bytes per rank, by category: memory/report.py
checkpoints/    the newest of them, and the best: checkpoints/format.py
run.json        is there once there has been a checkpoint
lock            held by the process that writes the run; a word of the start that it belongs to

What is deleted of these while the run goes on, or moved away, is put back before the next checkpoint. Under
torchrun, its store has the directory of the run that was begun, for the ranks to go on there if they are
started anew.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.load import config_text
from alexnet2gpu.data.task import MEAN, Learned
from alexnet2gpu.faults import files
from alexnet2gpu.ranks.store import store_of_all_starts
from alexnet2gpu.runs.checkpoints.format import Progress, checkpoints_of, set_aside, step_of
from alexnet2gpu.runs.metrics import board_of, read_metrics
from alexnet2gpu.runs.writer import Writer

RUN_PATIENCE = 60  # seconds, with a process about to end, or with files about to be seen
BEGUN = "run"  # its key in the store


class Run(contextlib.AbstractContextManager):
    """The files of a run. Only the rank with `writes` changes any, but all may write by its `writer`, which
    calls `tick` while it is waited for. Raises: OSError if that fails."""

    lock = log_file = board = None

    def __init__(self, folder: Path, writes: bool, tick: Callable[[], None] = lambda: None):
        self.folder, self.writes, self.writer = folder, writes, Writer(folder, tick)
        self.checkpoints, self.metrics = folder / "checkpoints", folder / "metrics.jsonl"
        self.written = {}  # name -> content, of what is written once
        self.newest = folder  # checkpoint

    def __exit__(self, *error):
        self.writer.leave()
        for opened in filter(None, (self.lock, self.log_file)):
            with contextlib.suppress(OSError):
                opened.close()

    def start(
        self,
        config: Config,
        progress: Progress,
        damaged: list[Path],
        word: str = "",
        learned: Learned | None = None,
    ) -> None:
        """Make the directory, with what is `learned` in it and the `word` of this start in its lock; set
        `damaged` checkpoints aside; forget what earlier starts have done beyond `progress`: it will be done
        again. Raises: ValueError if another process writes this run, or has gone on with it meanwhile."""
        if not self.writes:
            return
        self.word = word
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._take_lock(RUN_PATIENCE)
        newer = [place for place in checkpoints_of(self.checkpoints) if place not in damaged]
        if newer and step_of(newer[-1]) > progress.step:
            raise ValueError(f"{newer[-1]}: another process wrote it meanwhile: resume again")
        for old in damaged:
            set_aside(old)
        for partial in self.checkpoints.iterdir():  # of an earlier start
            if re.fullmatch(r"\.step-\d+\.[0-9a-f-]+\.partial", partial.name):
                shutil.rmtree(partial, ignore_errors=True)
        self._forget_beyond(progress)
        self.log_file = open(self.metrics, "a+b", opener=files.regular)
        self.board = board_of(config.train, self.folder, progress.step)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            store_of_all_starts().set(BEGUN, str(self.folder))
        self._write("config.yaml", config_text(config).encode())
        if learned:
            self._write("task.json", json.dumps(asdict(learned.task), indent=1).encode() + b"\n")
        if learned and learned.mean is not None:
            self._write(MEAN, learned.mean_file())

    def _take_lock(self, patience):
        """Raises: ValueError if another process has it."""
        self.lock = open(self.folder / "lock", "a+", opener=files.regular)
        other = f"--out {self.folder}: another process is training there"
        _wait_until(self._is_locked, f"{other}: wait for its end, or give another", patience)
        self.lock.truncate(0)
        self.lock.write(self.word)
        files.flush(self.lock)  # other machines look for it

    def _is_locked(self):
        """Whether this process holds the lock now."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        return True

    def _write(self, name, content):
        self.written[name] = content
        with contextlib.suppress(FileNotFoundError):  # then it is put back before the next checkpoint
            files.write_whole(self.folder / name, content)

    def put_back(self) -> None:
        """What somebody has deleted or moved away meanwhile. Raises: ValueError if another run lies
        there now."""
        if not self.is_missing():
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        if not _is_at(self.folder / "lock", self.lock):
            if (self.folder / "lock").exists():
                go_on = "go on with this one, with --resume, where it was moved to"
                another = f"another run lies there now: {go_on}"
                raise ValueError(f"--out {self.folder}: {another}")
            self.lock.close()
            self._take_lock(patience=0)
        for name, content in self.written.items():
            files.write_whole(self.folder / name, content)
        self.log_file.seek(0)
        files.write_whole(self.metrics, self.log_file.read())
        self.log_file = open(self.metrics, "a+b", opener=files.regular)
        self.say(f"--out {self.folder}: what was deleted there, or moved away, is put back")

    def is_missing(self) -> bool:
        """Whether anything that this process has written is not there any more."""
        if not self.writes:
            return False
        once = [self.newest, *(self.folder / name for name in self.written)]
        held = {self.folder / "lock": self.lock, self.metrics: self.log_file}
        return not (all(map(Path.exists, once)) and all(_is_at(*pair) for pair in held.items()))

    def _forget_beyond(self, progress):
        """Keep the lines of the metrics up to a checkpoint. The last may be of an evaluation that is still to
        do, though it was logged once, or be missing though it was done."""
        done = progress.step, progress.evaluation is not None
        evaluation = progress.evaluation and progress.evaluation.figures()
        kept = [line for line in read_metrics(self.metrics) if (line["step"], "top1_error" in line) <= done]
        if evaluation and not any((line["step"], "top1_error" in line) == done for line in kept):
            kept.append({"step": progress.step, **evaluation})
        lines = "".join(json.dumps(line) + "\n" for line in kept)
        files.write_whole(self.metrics, lines.encode())

    def check_seen(self, word: str) -> None:
        """Called by all ranks once it has started. Raises: ValueError if this one does not see the word of
        this start: a copy of the run has that of another."""

        def is_seen():
            with contextlib.suppress(FileNotFoundError, ValueError):
                # a list of what is there: a single name may be of a network's cache
                there = "lock" in os.listdir(self.folder)
                return there and files.read_file(self.folder / "lock", 1000).decode() == word

        elsewhere = f"--out {self.folder.absolute()}: is not the directory that rank 0 sees"
        _wait_until(is_seen, f"{elsewhere}: give one on a disk that all share", RUN_PATIENCE)

    def say(self, *lines: str) -> None:
        """Print lines, on one rank."""
        if self.writes and lines:
            print(*lines, sep="\n", flush=True)

    def log(self, **figures: float) -> None:
        """Add a line to metrics.jsonl."""
        if self.writes:
            self.writer.do(self._append, (json.dumps(figures) + "\n").encode())
            if self.board:
                self.writer.do(self.board, figures)

    def _append(self, line):
        self.log_file.write(line)
        self.log_file.flush()

    def flush(self) -> None:
        """Return when the disk has the metrics."""
        if self.writes:
            files.flush(self.log_file)

    def write_memory(self, report: dict) -> None:
        """Of all ranks: memory/report.py."""
        if self.writes:
            self.writer.do(self._write, "memory.json", json.dumps(report, indent=1).encode() + b"\n")


def _is_at(file, opened):
    """Whether an open file is the one that lies there."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it has been closed
        return os.path.samestat(os.fstat(opened.fileno()), os.stat(file))
    return False


def _wait_until(true, complaint, patience):
    """Raises: ValueError, if it is not true in so many seconds."""
    until = time.monotonic() + patience
    while not true():
        if time.monotonic() > until:
            raise ValueError(complaint)
        time.sleep(0.1)
