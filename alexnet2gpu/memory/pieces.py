"""The memory of a step at any batch, from a few batches that are played.

Two steps of the same network and mode make the same storages in the same order, and the bytes of each grow
in proportion to the batch; but for a batch of one image a rank, where some tensors are views of others, and
for scratch memory, which may have a limit. So a step is kept in pieces, from a batch to a larger one, in
which each storage's bytes lie on a line.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

from alexnet2gpu.memory.places import Place
from alexnet2gpu.memory.play import Estimate

EXACT = 1e-9  # relative: what is nearer to a line lies on it


class Steps(NamedTuple):
    """The steps of `first` to `last` units of a batch."""

    first: int
    last: int
    storages: list[tuple[str, Place, int, int]]  # kind, where it is made, bytes: of no unit, and a unit
    events: list[int]  # n: storage n is made, counted from 0; -n - 1: it ends
    moments: list[tuple[Place, int]]  # where the step comes, before which of the events


class _Step(NamedTuple):
    """What is compared."""

    form: tuple  # the same for all steps of a piece
    sizes: list[int]


def pieces(step: Callable[[int], Estimate], last: int, like: Sequence[Steps] = ()) -> list[Steps]:
    """Of the steps of 1 to `last` units, which `step` plays, as few of them as show where lines end. `like`:
    pieces that are taken if the first and the last step are on them."""
    at = cache(lambda units: _compared(step(units)))

    def between(low, high) -> Iterator[Steps]:
        middle, same = math.isqrt(low * high), at(low).form == at(high).form
        for found in _guesses(low, high, at) if same else ():
            probes = ((piece, math.isqrt(piece.first * piece.last)) for piece in found)
            if found and all(_on(piece, n, at(n)) for piece, n in probes):
                yield from found
                return
        cut = low if not same and at(low + 1).form == at(high).form else middle
        yield from between(low, cut)
        yield from between(cut + 1, high)

    cut = [piece._replace(last=min(piece.last, last)) for piece in like if piece.first <= last]
    if cut and all(_on(piece, n, at(n)) for n, piece in ((1, cut[0]), (last, cut[-1]))):
        return cut
    return list(between(1, last))


def _compared(estimate):
    numbers, storages, events, moments = {}, [], [], [(estimate.moments[0].place, 0)]
    for storage, made in estimate.events:
        if made:
            numbers[id(storage)] = len(storages)
            storages.append(storage)
            if storage.born > len(moments):  # the first of a moment
                moments.append((estimate.moments[storage.born - 1].place, len(events)))
        number = numbers[id(storage)]
        events.append(number if made else -number - 1)
    events = [event for _, run in groupby(events, lambda event: event < 0) for event in _in_order(run)]
    kinds = tuple((storage.kind, storage.place) for storage in storages)
    return _Step((kinds, tuple(events), tuple(moments)), [storage.bytes for storage in storages])


def _in_order(events):
    """A run of makings as it is; of ends sorted: autocast's copies go in any order."""
    run = list(events)
    return run if run[0] >= 0 else sorted(run)


def _guesses(low, high, at):
    """What the steps between two may be, the simplest first."""
    found = _through(low, at(low), high, at(high))
    yield [found] if found else []
    yield list(_bent(low, high, at))


def _through(low, first, high, last):
    """The piece of two steps of one form; None if no whole bytes lie between them."""
    made, events, moments = first.form
    lines = []
    for a, b in zip(first.sizes, last.sizes):
        slope, rest = divmod(b - a, max(1, high - low))
        if rest:
            return None
        lines.append((a - slope * low, slope))
    return _piece(low, high, first.form, lines)


def _piece(low, high, form, lines):
    made, events, moments = form
    storages = [(kind, place, *line) for (kind, place), line in zip(made, lines)]
    return Steps(low, high, storages, list(events), list(moments))


def _on(piece, units, step):
    made, events, moments = step.form
    sizes = [base + slope * units for *_, base, slope in piece.storages]
    same = [(kind, place) for kind, place, *_ in piece.storages] == list(made)
    return same and piece.events == list(events) and piece.moments == list(moments) and sizes == step.sizes


def _bent(low, high, at):
    """The pieces of storages whose line has a bend each, where the lines at both ends meet."""
    starts = zip(at(low).sizes, at(low + 1).sizes)
    ends = zip(at(high - 1).sizes, at(high).sizes)
    lines, last_before = [], []  # before the bend and after it; the last unit before it
    for (a, next_to_a), (next_to_b, b) in zip(starts, ends):
        left, right = next_to_a - a, b - next_to_b
        before, after = (a - left * low, left), (b - right * high, right)
        lines.append((before, after))
        last_before.append(high if left == right else (after[0] - before[0]) // (left - right))
    cuts = sorted({n for n in last_before if low <= n < high})
    for first, last in zip([low, *(n + 1 for n in cuts)], [*cuts, high]):
        of = [after if n < first else before for (before, after), n in zip(lines, last_before)]
        yield _piece(first, last, at(low).form, of)


def corners(function: Callable[[int], list[float]], last: int) -> Iterator[list]:
    """[n, values] of a function from 1 to `last`, so that between two of them it lies on a line."""
    at = cache(function)

    def between(low, high):
        middle = (low + high) // 2
        if all(_straight(low, n, high, at) for n in {low + 1, middle, math.isqrt(low * high), high - 1}):
            yield high
            return
        yield from between(low, middle)
        yield from between(middle, high)

    chosen = [1, *(between(1, last) if last > 1 else ())]
    inner = zip(chosen, chosen[1:], chosen[2:])
    kept = [n for low, n, high in inner if not _straight(low, n, high, at)]
    for n in sorted({1, *kept, last}):
        yield [n, [float(f"{x:.9g}") for x in at(n)]]


def _straight(low, n, high, at):
    """Whether the values at n lie on the line from `low` to `high`."""
    share = (n - low) / (high - low)
    return all(abs(a + share * (b - a) - y) <= EXACT * y for a, y, b in zip(at(low), at(n), at(high)))
