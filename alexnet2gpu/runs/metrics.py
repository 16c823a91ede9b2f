"""The figures of a run, line by line, as folder.py describes them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
