"""Pictures of docs/ablations.md: differences with their intervals, and curves with a band of all seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alexnet2gpu.figures.page import WIDTH, pyplot, save

SHADES = {"holds": "#2f6f4f", "does not hold": "#c2452d", "not at this size": "#7f7f7f", "": "#4a6fa5"}
MARKS = {"holds": "o", "does not hold": "X", "not at this size": "D", "": "o"}


def forest(title: str, rows: Sequence[tuple[str, float, tuple[float, float], str]], file: Path) -> None:
    """`rows`: (arm, mean difference, its interval, verdict), in points of error; the base is at 0."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.28 * len(rows)), layout="constrained")
    axes.axvline(0, color="black", linewidth=0.8)
    said = set()
    for place, (_, mean, (low, high), verdict) in enumerate(rows):
        look = {"color": SHADES[verdict], "marker": MARKS[verdict], "markersize": 5, "linewidth": 1.6}
        label = (verdict or "there is none") if verdict not in said else None
        said.add(verdict)
        axes.plot([low, high], [place, place], color=SHADES[verdict], linewidth=1.6)
        axes.plot([mean], [place], label=label, **look)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=1)
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("points of test error more than the base, 95 % interval (beyond 1 logarithmic)")
    axes.set_title(title)
    if said - {""}:
        axes.legend(title="the claim", fontsize=8)
    save(figure, file)


def curves(title: str, arms: Mapping[str, tuple[list, list]], labels: Sequence[str], file: Path) -> None:
    """`arms`: name -> (seconds, errors), each of (seeds, epochs), errors from 0 to 1. On the left over
    epochs, on the right over the seconds of all steps until then, the median of the seeds. `labels`: of the
    y axis, and the level of a line across, if there is one."""
    plt = pyplot()
    figure, sides = plt.subplots(1, 2, figsize=(WIDTH, 3.6), layout="constrained", sharey=True)
    for number, (name, (seconds, errors)) in enumerate(arms.items()):
        errors = 100 * np.array(errors)
        epochs = np.arange(1, errors.shape[1] + 1)
        for axes, x in zip(sides, (epochs, np.median(np.cumsum(seconds, 1), 0))):
            look = {"color": f"C{number}", "linestyle": ("-", "--", "-.", ":")[number % 4]}
            axes.fill_between(x, errors.min(0), errors.max(0), color=f"C{number}", alpha=0.2, linewidth=0)
            axes.plot(x, errors.mean(0), label=name, **look)
    for axes, what in zip(sides, ("epoch", "seconds of training, one thread")):
        axes.set_xlabel(what)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
        for level in labels[1:]:
            axes.axhline(float(level), color="black", linewidth=0.8)
    sides[0].set_ylabel(labels[0])
    sides[1].legend(fontsize=8)
    figure.suptitle(title)
    save(figure, file)
