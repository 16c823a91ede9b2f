"""Checkpoints: a directory with one file per tower, so that any mode can resume from any other.

    checkpoints/step-00000093/
        tower-0.pt      {"weights": {name: tensor}, "velocity": {name: tensor}}: towers.py
        tower-1.pt
        mean.npy        the mean image, if one is subtracted: data/task.py
        state.json      how far the run had come, its config, classes, versions, checksums; sealed
                        (faults/files.py)
    checkpoints/best    a link to the one with the smallest top-1 error

The union of the tower files is the network; nothing is sliced, gathered or renamed. The ranks of replica 0
write their own towers; every rank reads those that it holds. No random state is kept: what is drawn next
depends on the seed and the step alone (config/seeds.py).
"""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet2gpu.config import schema
from alexnet2gpu.faults import files

FORMAT = 3  # of state.json and of the tower files; changes when an older program cannot read them
NAME = r"step-([0-9]{8}|[1-9][0-9]{8,17})"  # as `name_of` has it


class Damaged(ValueError):
    """A checkpoint that is not whole, or is not as it was written."""


@dataclass
class Evaluation:
    """Of the test images: the epoch after which, mean loss, errors as fractions of 1; of five classes or
    fewer no top-5 error."""

    epoch: int
    test_loss: float
    top1_error: float
    top5_error: float | None = None

    def figures(self) -> dict[str, float]:
        """Those that there are, by name."""
        return {name: figure for name, figure in asdict(self).items() if figure is not None}


@dataclass
class Best:
    """The step of the best evaluation so far."""

    step: int = schema.bounded(least=0)
    top1_error: float = schema.bounded()


@dataclass
class Progress:
    """How far a run has come, beside the tensors."""

    step: int = schema.bounded(0, least=0)  # steps done; the place in the epoch follows from it
    recent: tuple[tuple[float, float], ...] = ()  # loss and error of each since metrics.jsonl's last line
    evaluation: Evaluation | None = None  # at this step; None: not done yet
    best: Best | None = None
    loss_scale: tuple[float, int] | None = None  # of float16: model/loss_scale.py


@dataclass
class State:
    """What state.json says."""

    format: int
    progress: Progress
    config: dict[str, Any]  # of the run, every key
    images: dict[str, Any]  # of training: data/task.py
    versions: dict[str, str]  # runs/agreement.py
    towers: dict[str, str]  # checksums, by names of files


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """What `name_of` was given."""
    return int(checkpoint.name.removeprefix("step-"))


def checkpoints_of(folder: Path) -> list[Path]:
    """Those in a run's `checkpoints`, in order of their steps; nothing else that lies there."""
    named = [place for place in folder.glob("step-*") if re.fullmatch(NAME, place.name)]
    return sorted(named, key=step_of)


def set_aside(checkpoint: Path) -> None:
    """Give a name to what lies there that says that it is none."""
    checkpoint.rename(checkpoint.with_name(f"damaged-{checkpoint.name}-{time.time_ns():x}"))


def newest_checkpoint(folder: str | Path) -> Path:
    """The newest checkpoint of a run's directory, or of its `checkpoints`; one itself is that one. Raises:
    ValueError if there is none."""
    for within in (Path(folder), Path(folder, "checkpoints")):
        if (within / "state.json").is_file():
            return within
        if found := [place for place in checkpoints_of(within) if (place / "state.json").is_file()]:
            return found[-1]
    raise ValueError(f"{folder}: there is no checkpoint in it")


def config_of(checkpoint: Path) -> Path:
    """The config of a checkpoint's run. Raises: ValueError if it is not beside it."""
    for place in (os.path.abspath(checkpoint), os.path.realpath(checkpoint)):  # of `best`; by way of a link
        if (file := Path(place).parents[1] / "config.yaml").is_file():
            return file
    raise ValueError(f"{checkpoint}: there is no {file}: say which config with --config FILE")


def read_state(checkpoint: Path) -> State:
    """What state.json says. Raises: Damaged if it was changed, or holds something else; ValueError if another
    version of the program wrote it."""
    try:
        state = files.read_sealed(checkpoint / "state.json")
        if state.get("format") == FORMAT:
            return schema.build_section(State, state, "state.json")
    except ValueError as error:
        raise Damaged(str(error)) from None
    written = f"{checkpoint / 'state.json'}: is of format {state.get('format')}"
    raise ValueError(f"{written}, this program reads {FORMAT}: take the version that wrote it")


def compare_checksums(checkpoint: Path, state: State, towers: Sequence[int]) -> None:
    """Of the files of some towers, and of what is not a tower's. Raises: Damaged."""
    others = [name for name in state.towers if not name.startswith("tower-")]
    for name in (*others, *(f"tower-{index}.pt" for index in towers)):
        try:
            files.compare_checksum(checkpoint / name, state.towers.get(name, "none"))
        except ValueError as error:
            raise Damaged(str(error)) from None
