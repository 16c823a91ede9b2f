"""Memory of a rank: what each mode holds at its worst moment, and what in every place of a step.

Parts that add up are stacked, in one order and in the same colours in both figures; what was measured lies
over them in black, so that a prediction that is wrong shows as a gap."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from alexnet2gpu.figures.page import pyplot, save
from alexnet2gpu.memory.play import Estimate
from alexnet2gpu.memory.report import MIB, fullest

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


def draw_bars(title: str, rows: Sequence[dict], file: Path) -> None:
    """Stacked bars of launch/memory.py's rows, one for each that could be predicted, in MiB; a mark where the
    peak was measured."""
    plt, rows = pyplot(), [row for row in rows if "predicted" in row]
    figure, axes = plt.subplots(figsize=(max(7, 0.75 * len(rows) + 3), 5), layout="constrained")
    below = [0] * len(rows)
    for kind, colour in COLOURS.items():
        heights = [row["at_worst"].get(kind, 0) / MIB for row in rows]
        axes.bar(range(len(rows)), heights, 0.7, below, color=colour)
        below = [bottom + height for bottom, height in zip(below, heights)]
    for number, row in enumerate(rows):
        if row.get("measured"):
            peak = fullest(row["measured"])["peak"] / MIB
            axes.plot(number, peak, "_", color="black", markersize=26, markeredgewidth=2)
    axes.set_ylim(0, 1.05 * max(axes.dataLim.y1, 1))
    kinds = set().union(*(row["at_worst"] for row in rows))
    _legend(plt, axes, kinds, any(row.get("measured") for row in rows))
    several = len({row["config"] for row in rows}) > 1
    names = [
        "\n".join([row["config"]] * several + [row["mode"], f"batch {row['batch']}", row["precision"]])
        for row in rows
    ]
    axes.set_xticks(range(len(rows)), names)
    axes.set_ylabel("MiB on each rank, at the worst moment")
    axes.set_title(title)
    save(figure, file)


def draw_peaks(title: str, rows: Sequence[dict], file: Path) -> None:
    """Peaks over batches, a line for each config, mode and precision, and a ring where two lines of the same
    config cross, with the batch."""
    plt, lines = pyplot(), {}
    for row in rows:
        if "predicted" in row:
            line = lines.setdefault((row["config"], row["precision"], row["mode"]), [])
            line.append((row["batch"], row["predicted"]["peak"] / MIB))
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    configs = {config for config, _, _ in lines}
    for (config, precision, mode), points in lines.items():
        label = ", ".join([config] * (len(configs) > 1) + [mode, precision])
        axes.plot(*zip(*sorted(points)), ".-", label=label)
    for (one, first), (two, second) in itertools.combinations(lines.items(), 2):
        for batch, peak in crossings(first, second) if one[:2] == two[:2] else ():
            axes.plot(batch, peak, "o", color="black", fillstyle="none", markersize=9)
            axes.annotate(f"{batch:.0f}", (batch, peak), (4, -12), textcoords="offset points", fontsize=8)
    axes.set_xlabel("batch: images of all ranks together")
    axes.set_ylabel("MiB on each rank")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(title)
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
    each rank of `measured` with its own moments as a line; one panel if there are none."""
    plt = pyplot()
    panels = max(1, len(measured))
    places = [moment.place for moment in expected.moments]
    size = max(12, 0.19 * len(places)), 3.6 * panels + 1.4
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
    _legend(plt, grid[0, 0], kinds, bool(measured))
    towers = len({module.split(".")[1] for _, module in places if module.startswith("towers.")})
    names = [_name(place, towers > 1) for place in places]
    grid[-1, 0].set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    figure.suptitle(title)
    save(figure, file)


def _name(place, with_tower):
    passing, module = place
    if not module.startswith("towers."):
        return {"start": "start", "update": "update"}.get(passing) or module or "join"
    _, tower, *layer = module.split(".")
    return ".".join(layer) + f" ({tower})" * with_tower


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


def _legend(plt, axes, kinds, measured):
    shown = {kind: colour for kind, colour in COLOURS.items() if kind in kinds}
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in shown.values()]
    labels = [{"buckets": "DDP's buckets"}.get(kind, kind) for kind in shown]
    if measured:
        handles.append(plt.Line2D([], [], color="black", linewidth=2))
        labels.append("measured")
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False, "fontsize": 8}
    axes.legend(handles[::-1], labels[::-1], **beside)
