"""Pictures of docs/ablations.md: differences with their intervals, and curves with a band of all seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alexnet2gpu.figures.page import WIDTH, pyplot, save
from bench.ablations.stats import MARGIN, SEEN

LOOKS = dict(zip(SEEN, (("#2f6f4f", "o"), ("#c2452d", "X"), ("#4a6fa5", "s"), ("#7f7f7f", "D"))))
TICKS = -50, -20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50
ERRORS = 10, 12, 15, 20, 25, 30, 40, 50, 70, 90  # percent


def forest(title: str, rows: Sequence[tuple[str, float, tuple[float, float], str]], file: Path) -> None:
    """`rows`: (arm, mean difference, its interval, which of stats.SEEN), in points of error; the base is at
    0, with MARGIN on both sides."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.28 * len(rows)), layout="constrained")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvspan(-MARGIN, MARGIN, color="black", alpha=0.06, linewidth=0)
    for place, (_, mean, ends, said) in enumerate(rows):
        color, marker = LOOKS[said]
        axes.plot(ends, [place, place], color=color, linewidth=1.6)
        axes.plot([mean], [place], color=color, marker=marker, markersize=5, linestyle="none")
    for said, (color, marker) in LOOKS.items():
        if said in {row[-1] for row in rows}:
            axes.plot([], [], color=color, marker=marker, markersize=5, label=said)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=1)
    axes.margins(x=0.1)
    left, right = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if left <= tick <= right])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("points of test error more than the base, 95 % interval (beyond 1 logarithmic)")
    axes.set_title(title)
    axes.legend(title="beside the base", fontsize=8)
    save(figure, file)


def curves(title: str, arms: Mapping[str, tuple[list, list]], labels: Sequence[str], file: Path) -> None:
    """`arms`: name -> (seconds, errors), each of (seeds, epochs), errors from 0 to 1, drawn in percent on a
    logarithmic axis: the mean, and a band from the least to the largest. On the left over epochs, on the
    right over the seconds of all steps until then, the median of the seeds. `labels`: of the y axis, and the
    level of a line across, if there is one."""
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
        for level in labels[1:]:
            axes.axhline(float(level), color="black", linewidth=0.8)
    low, high = sides[0].get_ylim()
    sides[0].set_yscale("log")
    sides[0].set_yticks([tick for tick in ERRORS if low <= tick <= high])
    sides[0].yaxis.set_major_formatter("{x:g}")
    sides[0].minorticks_off()
    sides[0].xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    sides[0].set_ylabel(labels[0])
    sides[1].legend(fontsize=8)
    figure.suptitle(title)
    save(figure, file)
