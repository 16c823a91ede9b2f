"""What a run leaves: a directory `runs/NAME/`, written by rank 0.

config.yaml     every key as resolved, loadable again
metrics.jsonl   every train.log_every steps: step, epoch, loss, error, lr, images_per_second;
                every evaluation: step, epoch, test_loss, top1_error, top5_error. Losses are means
                over the global batch and the steps since the last line, errors fractions of 1,
                lr is the rate of the weights
memory.json     bytes per rank, by category: memory/report.py
checkpoints/    the newest of them: checkpoint.py
"""

import json
import os
from pathlib import Path

from alexnet2gpu.config import Config, save_config

RUNS = Path("runs")  # in the current directory, where --out says nothing else


def default_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2, NAME-3, ... : the first that is not there."""
    number = 1
    while (folder := RUNS / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def check_folder(out: str | None, resume: bool) -> Path | None:
    """The directory that --out names, None if it names none.

    Raises: ValueError if it holds another run, holds none to resume, or cannot be written.
    """
    if resume and out is None:
        raise ValueError("--resume: say which run to go on with: --out DIR --resume")
    folder = Path(out or RUNS)
    holds_run = (folder / "config.yaml").exists()
    if resume and not holds_run:
        raise ValueError(
            f"--out {out} --resume: there is no run to go on with: leave --resume out to start one"
        )
    if out and holds_run and not resume:
        raise ValueError(
            f"--out {out} holds another run: give another directory, "
            "or add --resume to go on with it"
        )
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(
            f"--out {folder}: {there} is not a directory that can be written to: give another"
        )
    return folder if out else None


class Run:
    """The files of a run. Only the rank with `writes` changes any."""

    def __init__(self, folder: Path, writes: bool):
        self.folder, self.writes = folder, writes
        self.checkpoints = folder / "checkpoints"

    def start(self, config: Config, step: int) -> None:
        """Make the directory; forget metrics of steps after `step`, which will be done again."""
        if not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_config(config, self.folder / "config.yaml")
        metrics = self.folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        metrics.write_text("".join(line + "\n" for line in kept))

    def log(self, **figures: float) -> None:
        """Add a line to metrics.jsonl."""
        if self.writes:
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(figures) + "\n")

    def write_memory(self, report: dict) -> None:
        """Write memory.json."""
        if self.writes:
            (self.folder / "memory.json").write_text(json.dumps(report, indent=1) + "\n")
