"""The figures of a run, line by line, as folder.py describes them: read, and shown by TensorBoard."""

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alexnet2gpu.config.keys import Train
from alexnet2gpu.faults import files

LONGEST = 2**16  # characters of a line


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl, but for those that are not whole, such as the last one of a run that is
    going on, and others than of numbers; none if there is no file. Raises: OSError."""
    with contextlib.suppress(FileNotFoundError), open(file, errors="replace", opener=files.regular) as opened:
        while line := opened.readline(LONGEST):
            try:
                parsed = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if not isinstance(parsed, dict) or not all(map(_is_number, parsed.values())):
                continue
            if isinstance(parsed.get("step"), int) and parsed["step"] >= 0:
                yield parsed


def _is_number(value):
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def check_board(train: Train) -> None:
    """Raises: ValueError if what `train.log` names is not installed."""
    if train.log and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("train.log tensorboard: is not installed: pip install -e '.[tensorboard]'")


def board_of(train: Train, run: Path, step: int) -> Callable[[dict[str, float]], None] | None:
    """What takes a line's figures and shows them by `tensorboard --logdir RUN`, if `train.log` says so; what
    an earlier start has shown beyond `step` is gone."""
    if train.log is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # takes a second

    writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def show(figures):
        for name, value in figures.items():
            if name != "step":
                writer.add_scalar(name, value, figures["step"])
        writer.flush()

    return show
