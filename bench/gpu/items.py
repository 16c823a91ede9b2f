"""Items: what is checked or measured, one after the other, each within a time of its own.

    Item       a function, the ranks that it runs on, how long it may take
    at_most    figures that pass if none is above a limit      -> what an item's function returns
    holds      figures and statements that pass if all hold       of rank 0 counts
    noted      figures that nobody judges

What is found of an item, a line of the JSON:

    item, seconds
    passed      true, false; null if there was nothing to judge, or if it was not done
    figures     whatever it has measured
    threshold   in words
    error       in one line: why it has failed, or was not done
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from bench.processes import Failed, Pool, TooLate

LEAST = 10  # seconds left, to begin an item
PATIENCE_DRY = 3  # times as long an item may take on the CPU


class Item(NamedTuple):
    """`work(*args)` on each of so many `ranks`."""

    name: str
    work: Callable[..., dict]
    args: tuple = ()
    ranks: int = 1
    seconds: float = 60  # after which it has failed
    gpus: int = 0  # that it needs
    dry: bool = True  # whether it says anything on a machine without a GPU
    may_fail: bool = False  # something that is tried, to know whether it works

    def needs(self, gpus: int) -> str | None:
        """What this machine lacks, with so many GPUs; None if nothing."""
        if self.gpus <= gpus or (self.dry and gpus == 0):
            return None
        return "needs a GPU" if self.gpus == 1 else f"needs {self.gpus} GPUs"


def at_most(limit: float, figures: dict[str, float], **more: Any) -> dict:
    """Judged: all `figures` are numbers of at most `limit`; `more` ones are not."""
    good = all(value <= limit for value in figures.values())  # no number is not
    return {"figures": figures | more, "passed": good, "threshold": f"at most {limit:g}"}


def holds(statements: dict[str, bool], figures: dict | None = None) -> dict:
    """Judged: all `statements` are true; of those that are not, the first is the error."""
    wrong = [text for text, true in statements.items() if not true]
    found = {"figures": figures or {}, "passed": not wrong, "threshold": "; ".join(statements)}
    return found | ({"error": f"not so: {wrong[0]}"} if wrong else {})


def noted(figures: dict, why: str | None = None) -> dict:
    """Not judged; `why`, if there is nothing to be known."""
    return {"figures": figures, "passed": None, "error": why}


def largest(values: Iterable[float]) -> float:
    """Of numbers; no number if one of them is none."""
    values = list(values)
    return math.nan if any(math.isnan(value) for value in values) else max(values)


def carry_out(items: Iterable[Item], pool: Pool, gpus: int, end: float) -> Iterator[tuple[dict, dict]]:
    """Do the items, until `end` by time.monotonic().

    Yields: what is found of each, and files (name -> bytes) that it leaves.
    """
    for item in items:
        start = time.monotonic()
        found = _found_of(item, pool, gpus, end - start)
        files = found.pop("files", {})
        usual = {"passed": None, "figures": {}, "threshold": None, "error": None}
        yield {"item": item.name, "seconds": round(time.monotonic() - start, 2)} | usual | found, files


def _found_of(item, pool, gpus, left):
    if lack := item.needs(gpus):
        return {"error": lack}
    seconds = item.seconds * (1 if gpus else PATIENCE_DRY)
    if left < min(LEAST, seconds):
        return {"error": "left out: no time"}
    try:
        return pool(item.work, item.ranks, *item.args, patience=min(seconds, left))[0]
    except Failed as error:
        short = isinstance(error, TooLate) and left < seconds
        said = f"left out: no time, ended after {left:.0f} s" if short else one_line(error)
        return {"passed": None if short or item.may_fail else False, "error": said}


def one_line(error: BaseException) -> str:
    """The last line of a rank's traceback, with its rank."""
    rank, *lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    named = [line for line in lines if not line.startswith(("File ", "^", "~"))]
    return f"{rank} {named[-1]}"[:400] if named else rank[:400]
