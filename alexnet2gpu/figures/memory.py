"""Memory of a rank: what each mode holds at its worst moment, and what in every place of a step.

Parts that add up are stacked, in one order and in the same colours in both figures; what was measured lies
over them in black, so that a prediction that is wrong shows as a gap."""

from collections.abc import Sequence
from pathlib import Path

from alexnet2gpu.figures.page import pyplot, save
from alexnet2gpu.memory.predicted.step import Prediction
from alexnet2gpu.memory.report import MIB, fullest

COLOURS = {
    "weights": "#1f3b5c",
    "momentum": "#3d6a9e",
    "buckets": "#b9cfe6",
    "gradients": "#7fa6cf",
    "batch": "#4f9d69",
    "activations": "#e2a33c",
    "bfloat16 weights": "#9b7bb8",
    "gradients of activations": "#d9663f",
    "temporary": "#8c2f39",
    "not told apart": "#c8c8c8",
}


def draw_bars(title: str, rows: Sequence[dict], file: Path) -> None:
    """Stacked bars of launch/memory.py's rows, one for each mode, batch and precision, in MiB; a mark where
    the peak was measured. Of what was not predicted, what was measured."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(max(7, 0.75 * len(rows) + 3), 5), layout="constrained")
    parts = [row.get("at_worst") or _measured_parts(row) for row in rows]
    below = [0] * len(rows)
    for kind, colour in COLOURS.items():
        heights = [held.get(kind, 0) / MIB for held in parts]
        axes.bar(range(len(rows)), heights, 0.7, below, color=colour)
        below = [bottom + height for bottom, height in zip(below, heights)]
    for number, row in enumerate(rows):
        if row.get("measured"):
            peak = fullest(row["measured"])["peak"] / MIB
            axes.plot(number, peak, "_", color="black", markersize=26, markeredgewidth=2)
    axes.set_ylim(0, 1.05 * max(axes.dataLim.y1, 1))
    _legend(plt, axes, set().union(*parts), any(row.get("measured") for row in rows))
    names = [f"{row['mode']}\nbatch {row['batch']}\n{row['precision']}" for row in rows]
    axes.set_xticks(range(len(rows)), names)
    axes.set_ylabel("MiB on each rank, at the worst moment")
    axes.set_title(title)
    save(figure, file)


def _measured_parts(row):
    """What the rank that held most is known to have held, and the rest of its peak."""
    if not row.get("measured"):
        return {}
    most = fullest(row["measured"])
    parts = {kind: most[kind] for kind in ("weights", "momentum", "gradients", "batch")}
    return parts | {"not told apart": most["peak"] - sum(parts.values())}


def draw_timeline(title: str, expected: Prediction, measured: Sequence[Sequence], file: Path) -> None:
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
            found = [held / MIB for _, held in measured[rank]]
            axes.step(range(len(found)), found, where="mid", color="black", linewidth=1.2)
        axes.axvline(turn, color="black", linewidth=0.8, linestyle=":")
        axes.text(turn, 1.01, " backward", transform=axes.get_xaxis_transform())
        axes.text(turn, 1.01, "forward ", transform=axes.get_xaxis_transform(), ha="right")
        axes.set_ylabel(f"MiB on rank {rank}")
        axes.set_xlim(-0.5, len(places) - 0.5)
    kinds = {kind for moment in expected.moments for kind in moment.parts}
    _legend(plt, grid[0, 0], kinds, bool(measured))
    towers = len({tower for _, tower, _ in places if tower is not None})
    names = [
        (f"{layer} ({tower})" if towers > 1 and tower is not None else layer) or passing
        for passing, tower, layer in places
    ]
    grid[-1, 0].set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    figure.suptitle(title)
    save(figure, file)


def _legend(plt, axes, kinds, measured):
    shown = {kind: colour for kind, colour in COLOURS.items() if kind in kinds}
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in shown.values()]
    labels = [{"buckets": "DDP's buckets"}.get(kind, kind) for kind in shown]
    if measured:
        handles.append(plt.Line2D([], [], color="black", linewidth=2))
        labels.append("measured")
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False, "fontsize": 8}
    axes.legend(handles[::-1], labels[::-1], **beside)
