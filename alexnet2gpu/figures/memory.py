"""Memory of a rank: what each mode holds at its worst moment, and what in every place of a step.

Parts that add up are stacked, in one order and in the same colours in both figures; what was measured lies
over them in black, so that a prediction that is wrong shows as a gap."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from alexnet2gpu.figures.page import WIDTH, pyplot, save
from alexnet2gpu.memory.play import Estimate
from alexnet2gpu.memory.report import MIB, fullest
from alexnet2gpu.memory.tables import place_texts

NAMED = 60  # places of a step whose names fit below it
COLOURS = {
    "weights": "#1f3b5c",
    "momentum": "#3d6a9e",
    "buckets": "#b9cfe6",
    "gradients": "#7fa6cf",
    "batch": "#4f9d69",
    "activations": "#e2a33c",
    "narrow weights": "#9b7bb8",
    "gathered weights": "#5fb3b3",
    "gradients of activations": "#d9663f",
    "temporary": "#8c2f39",
    "scratch": "#e0559f",
}


def draw_bars(rows: Sequence[dict], file: Path) -> None:
    """Stacked bars of launch/memory.py's rows, one for each that could be predicted, in MiB; a line where the
    peak was measured. What is the same in all is in the title, of what differs the last below each bar, the
    others below each group of bars."""
    plt, rows = pyplot(), [row for row in rows if "predicted" in row]
    same, differ = _compared(rows, "config", "mode", "precision", "batch")
    *outer, inner = differ or ["mode"]
    groups = ["\n".join(row[key] for key in outer) for row in rows]
    gaps = itertools.accumulate(one != other for one, other in zip(groups[:1] + groups, groups))
    at = [number + gap for number, gap in enumerate(gaps)]
    figure, axes = plt.subplots(figsize=(WIDTH, 5), layout="constrained")
    below = [0] * len(rows)
    for kind, colour in COLOURS.items():
        heights = [row["at_worst"].get(kind, 0) / MIB for row in rows]
        axes.bar(at, heights, 0.7, below, color=colour)
        below = [bottom + height for bottom, height in zip(below, heights)]
    for place, row in zip(at, rows):
        if row.get("measured"):
            peak = fullest(row["measured"])["peak"] / MIB
            axes.plot([place - 0.3, place + 0.3], [peak, peak], color="black", linewidth=2)
    top = max(axes.dataLim.y1, 1)
    axes.set_ylim(0, 1.05 * top)
    held = [item for row in rows for item in row["at_worst"].items()]
    kinds = {kind for kind, bytes_ in held if bytes_ / MIB > top / 500}  # that can be seen
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "reverse": True}
    _legend(axes, kinds, any(row.get("measured") for row in rows), **beside)
    names = [str(row[inner]) for row in rows]
    longest = max(map(len, names))
    upright = (longest + 1) * len(at) > 70  # characters as wide as the axes
    axes.set_xticks(at, names, rotation=90 * upright, fontsize=9)
    beneath, middles = axes.secondary_xaxis(0), {}
    for place, group in zip(at, groups):
        middles.setdefault(group, []).append(place)
    beneath.set_xticks([sum(places) / len(places) for places in middles.values()], middles)
    beneath.tick_params(length=0, pad=8 + (6 * longest if upright else 14), labelsize=9)
    axes.set_ylabel("MiB on each rank, at the worst moment")
    axes.set_title(f"{same}memory of a rank")
    save(figure, file)


def _compared(rows, *keys):
    """What is the same in all rows, in words, and those of the keys in which they differ."""
    differ = [key for key in keys if len({row[key] for row in rows}) > 1]
    same = [f"batch {rows[0][key]}" if key == "batch" else rows[0][key] for key in keys if key not in differ]
    return ", ".join(same) + ": " * bool(same), differ


def draw_peaks(rows: Sequence[dict], file: Path) -> None:
    """Peaks over batches, a line for each config, mode and precision, and a ring where two lines of the same
    config cross, with the batch."""
    plt, lines = pyplot(), {}
    keys, rows = ("config", "precision", "mode"), [row for row in rows if "predicted" in row]
    for row in rows:
        line = lines.setdefault(tuple(row[key] for key in keys), [])
        line.append((row["batch"], row["predicted"]["peak"] / MIB))
    same, differ = _compared(rows, *keys)
    figure, axes = plt.subplots(figsize=(WIDTH, 5), layout="constrained")
    for line, points in lines.items():
        label = ", ".join(word for key, word in zip(keys, line) if key in differ)
        axes.plot(*zip(*sorted(points)), ".-", label=label)
    for (one, first), (two, second) in itertools.combinations(lines.items(), 2):
        for batch, peak in crossings(first, second) if one[:2] == two[:2] else ():
            axes.plot(batch, peak, "o", color="black", fillstyle="none", markersize=9)
            axes.annotate(f"{batch:.0f}", (batch, peak), (4, -12), textcoords="offset points", fontsize=8)
    axes.set_xlabel("batch: images of all ranks together")
    axes.set_ylabel("MiB on each rank")
    axes.set_ylim(bottom=0)
    if differ:
        axes.legend(frameon=False, fontsize=9)
    axes.set_title(f"{same}the peak of a rank")
    save(figure, file)


def crossings(one: Sequence[tuple], other: Sequence[tuple]) -> list[tuple[float, float]]:
    """Where two lines through points (x, y) cross, between values of x that both have."""
    one, other, found = dict(one), dict(other), []
    shared = sorted(one.keys() & other.keys())
    for left, right in zip(shared, shared[1:]):
        before, after = one[left] - other[left], one[right] - other[right]
        if before * after < 0:
            part = before / (before - after)
            found.append((left + part * (right - left), one[left] + part * (one[right] - one[left])))
    return found


def draw_timeline(title: str, expected: Estimate, measured: Sequence[Sequence], file: Path) -> None:
    """A step from left to right, place by place, each at its worst, in MiB: stacked as predicted, a panel for
    each rank of `measured` with its own moments as a line; one panel if there are none. Where not all places
    can be named, the worst is."""
    plt = pyplot()
    panels = max(1, len(measured))
    places = [moment.place for moment in expected.moments]
    size = WIDTH, 2.5 * panels + 1.8
    figure, grid = plt.subplots(panels, figsize=size, layout="constrained", sharex=True, squeeze=False)
    stack = [[moment.parts.get(kind, 0) / MIB for moment in expected.moments] for kind in COLOURS]
    turn = next(i for i, place in enumerate(places) if place[0] == "backward") - 0.5
    for rank, axes in enumerate(grid[:, 0]):
        axes.stackplot(range(len(places)), stack, colors=list(COLOURS.values()), step="mid")
        if measured:
            found = _along(places, measured[rank])
            axes.step(range(len(places)), found, where="mid", color="black", linewidth=1.2)
        axes.axvline(turn, color="black", linewidth=0.8, linestyle=":")
        axes.text(turn, 1.01, " backward", transform=axes.get_xaxis_transform())
        axes.text(turn, 1.01, "forward ", transform=axes.get_xaxis_transform(), ha="right")
        axes.set_ylabel(f"MiB on rank {rank}")
        axes.set_xlim(-0.5, len(places) - 0.5)
    kinds = {kind for moment in expected.moments for kind in moment.parts}
    _legend(figure, kinds, bool(measured), loc="outside lower center", ncols=5)
    names = [name.split(" ", 1)[-1] for name in place_texts(places)]
    every = -(-len(names) // NAMED)
    named = range(expected.moments.index(expected.worst) % every, len(names), every)
    grid[-1, 0].set_xticks(named, names[named.start :: every], rotation=90, fontsize=8)
    figure.suptitle(title)
    save(figure, file)


def _along(places, moments):
    """What was measured in these places, in MiB, in their order; no number where nothing was taken."""
    found, moments = [], list(moments)
    for place in places:
        at = next((n for n, (other, _) in enumerate(moments) if _like(other, place)), None)
        found.append(math.nan if at is None else moments[at][1] / MIB)
        moments = moments if at is None else moments[at + 1 :]
    return found


def _like(one, other):
    """Whether two places are the same, of one rank's tower or another's."""
    return one[0] == other[0] and one[1].split(".")[2:] == other[1].split(".")[2:]


def _legend(owner, kinds, measured, **where):
    plt = pyplot()
    shown = {kind: colour for kind, colour in COLOURS.items() if kind in kinds}
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in shown.values()]
    labels = [{"buckets": "DDP's buckets"}.get(kind, kind) for kind in shown]
    if measured:
        handles.append(plt.Line2D([], [], color="black", linewidth=2))
        labels.append("measured")
    owner.legend(handles, labels, frameon=False, fontsize=8, **where)
