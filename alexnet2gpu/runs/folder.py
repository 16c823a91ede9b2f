"""The directory `runs/NAME/` that a run leaves, written by rank 0.

config.yaml     every key as resolved, loadable again
metrics.jsonl   every train.log_every steps: step, epoch, loss, error, lr, images_per_second; every
                evaluation: step, epoch, test_loss, top1_error, top5_error. Losses are means over the global
                batch and the steps since the last line, errors fractions of 1, lr is the rate of the weights
memory.json     bytes per rank, by category: memory/report.py
checkpoints/    the newest of them, and the best: checkpoints/format.py
run.json        is there once there has been a checkpoint
lock            held by the process that writes the run

Under torchrun its store has the directory of the run that was begun, for the ranks to go on there if they are
started anew.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.load import config_text
from alexnet2gpu.faults import files
from alexnet2gpu.faults.mistakes import one_line
from alexnet2gpu.ranks.store import store_of_all_starts
from alexnet2gpu.runs.checkpoints.format import Progress

RUNS = Path("runs")  # in the current directory, where --out says nothing else
RUN_PATIENCE = 60  # seconds, with a process about to end, or with files about to be seen
BEGUN = "run"  # its key in the store


def default_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2, NAME-3, ... : the first that is not there."""
    number = 1
    while (folder := RUNS / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def check_folder(out: str | None, resume: bool) -> Path | None:
    """The directory that --out names, None if it names none. Raises: ValueError if it holds another run,
    holds none to resume, or cannot be written."""
    if resume and out is None:
        raise ValueError("--resume: say which run to go on with: --out DIR --resume")
    folder = Path(out or RUNS)
    holds_run = (folder / "config.yaml").exists() or any(folder.glob("checkpoints/step-*"))
    if resume and not holds_run:
        way_out = "leave --resume out to start one"
        raise ValueError(f"--out {out} --resume: there is no run to go on with: {way_out}")
    if out and holds_run and not resume:
        way_out = "give another directory, or add --resume to go on with it"
        raise ValueError(f"--out {out} holds another run: {way_out}")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"--out {folder}: {there} is not a directory that can be written to: give another")
    return folder if out else None


def begun_before() -> Path | None:
    """The run that was begun before torchrun started the ranks anew (--max-restarts), else None. Raises:
    ValueError if torchrun's store, which knows it, does not answer, or has not outlived the ranks."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    try:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            raise RuntimeError("rank 0 had it, and is gone")
        store = store_of_all_starts()
        begun = Path(store.get(BEGUN).decode()) if store.check([BEGUN]) else None
    except RuntimeError as error:
        silent = f"torchrun's store does not say which run was begun ({one_line(error)})"
        raise ValueError(f"{silent}: go on with --out DIR --resume") from None
    return begun if begun and (begun / "config.yaml").is_file() else None


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl, but for those that are not whole, such as the last one of a run that is
    going on; none if there is no file. Raises: OSError."""
    text = file.read_text(errors="replace") if file.exists() else ""
    for line in text.splitlines():
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(parsed, dict) and isinstance(parsed.get("step"), int):
            yield parsed


class Run(contextlib.AbstractContextManager):
    """The files of a run. Only the rank with `writes` changes any. Raises: OSError if that fails."""

    lock = None

    def __init__(self, folder: Path, writes: bool):
        self.folder, self.writes = folder, writes
        self.checkpoints, self.metrics = folder / "checkpoints", folder / "metrics.jsonl"

    def __exit__(self, *error):
        if self.lock is not None:
            self.lock.close()

    def start(self, config: Config, progress: Progress, damaged: list[Path]) -> None:
        """Make the directory; set `damaged` checkpoints aside; forget what earlier starts have done beyond
        `progress`: it will be done again. Raises: ValueError if another process writes this run, or has gone
        on with it meanwhile."""
        if not self.writes:
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.folder / "lock", "a+")
        other = f"--out {self.folder}: another process is training there"
        _wait_until(self._is_locked, f"{other}: wait for its end, or give another")
        newer = set(self.checkpoints.glob("step-*")) - set(damaged)
        if newer and max(newer).name > f"step-{progress.step:08d}":
            raise ValueError(f"{max(newer)}: another process wrote it meanwhile: resume again")
        for old in damaged:
            old.rename(old.with_name(f"damaged-{old.name}-{time.time_ns():x}"))
        for partial in self.checkpoints.glob(".step-*.partial"):  # of an earlier start
            shutil.rmtree(partial, ignore_errors=True)
        self._forget_beyond(progress)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            store_of_all_starts().set(BEGUN, str(self.folder))
        files.write_whole(self.folder / "config.yaml", config_text(config).encode())

    def _is_locked(self):
        """Whether this process holds the lock now."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        return True

    def _forget_beyond(self, progress):
        """Keep the lines of the metrics up to a checkpoint. The last may be of an evaluation that is still to
        do, though it was logged once, or be missing though it was done."""
        done = progress.step, progress.evaluation is not None
        kept = [line for line in read_metrics(self.metrics) if (line["step"], "top1_error" in line) <= done]
        if progress.evaluation and not any((line["step"], "top1_error" in line) == done for line in kept):
            kept.append({"step": progress.step, **progress.evaluation})
        lines = "".join(json.dumps(line) + "\n" for line in kept)
        files.write_whole(self.metrics, lines.encode())

    def check_seen(self) -> None:
        """Called by all ranks once it has started. Raises: ValueError if this one does not see its files."""
        elsewhere = f"--out {self.folder.absolute()}: is not the directory that rank 0 sees"
        _wait_until(self._is_seen, f"{elsewhere}: give one on a disk that all share")

    def _is_seen(self):
        with contextlib.suppress(FileNotFoundError):
            return "config.yaml" in os.listdir(self.folder)  # `exists` may be of a cache

    def say(self, *lines: str) -> None:
        """Print lines, on one rank."""
        if self.writes and lines:
            print(*lines, sep="\n", flush=True)

    def log(self, **figures: float) -> None:
        """Add a line to metrics.jsonl."""
        if self.writes:
            with open(self.metrics, "a") as file:
                file.write(json.dumps(figures) + "\n")

    def flush(self) -> None:
        """Return when the disk has the metrics."""
        if self.writes:
            with open(self.metrics, "a") as file:
                files.flush(file)

    def write_memory(self, report: dict) -> None:
        """Write memory.json."""
        if self.writes:
            content = json.dumps(report, indent=1) + "\n"
            files.write_whole(self.folder / "memory.json", content.encode())


def _wait_until(true, complaint):
    """Raises: ValueError, if it is not true in RUN_PATIENCE."""
    until = time.monotonic() + RUN_PATIENCE
    while not true():
        if time.monotonic() > until:
            raise ValueError(complaint)
        time.sleep(0.1)
