"""Curves of runs: their loss and their errors, step by step, all runs in one picture."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet2gpu.figures.page import WIDTH, pyplot, save, short
from alexnet2gpu.runs.metrics import read_metrics

History = dict[str, tuple[list[int], list[float]]]  # key -> steps, and the values at them
NOTHING = [], []
TOP1, TOP5 = {"marker": "o", "markersize": 3}, {"linestyle": "--", "marker": ".", "markersize": 4}


def read_histories(runs: Sequence[Path]) -> dict[str, History]:
    """`read_history` of each run, by the name of its folder, or where two have the same by their paths."""
    names = [Path(os.path.realpath(run)).name for run in runs]
    unique = [str(run) if names.count(name) > 1 else name for run, name in zip(runs, names)]
    return {name: read_history(run) for name, run in zip(unique, runs)}


def read_history(run: Path) -> History:
    """What RUN/metrics.jsonl has in lines that are whole; runs/folder.py lists the keys. Raises: ValueError
    if there is no such file."""
    found, file = {}, run / "metrics.jsonl"
    if not file.is_file():
        raise ValueError(f"{run}: no metrics.jsonl in it: is it the directory of a run?")
    for figures in read_metrics(file):
        for key in figures:
            steps, values = found.setdefault(key, ([], []))
            steps.append(figures["step"])
            values.append(figures[key])
    return found


def draw(histories: Mapping[str, History], file: Path) -> None:
    """Above, the loss: in training a thin line, raw, and of validation images dots joined by a thicker one.
    Below, their two errors, in percent. A run has one colour, and in the legend its key in `histories`;
    earlier runs have thicker lines, so that they are seen below those that came out the same."""
    plt, count = pyplot(), len(histories)
    figure, (above, below) = plt.subplots(2, figsize=(WIDTH, 6.5), layout="constrained", sharex=True)
    for number, (name, history) in enumerate(histories.items()):
        colour = f"C{number}" if count <= 10 else plt.get_cmap("turbo")(number / count)
        wide = 1 + (count - 1 - number) / count
        above.plot(*history.get("loss", NOTHING), color=colour, linewidth=0.7 * wide)
        above.plot(*history.get("test_loss", NOTHING), color=colour, linewidth=1.6 * wide, **TOP1)
        below.plot([], [], color=colour, linewidth=3, label=short(name, 32))
        for key, look in (("top1_error", TOP1), ("top5_error", TOP5)):
            steps, errors = history.get(key, NOTHING)
            below.plot(steps, [100 * error for error in errors], color=colour, linewidth=1.6 * wide, **look)
    above.set_ylabel("loss: cross-entropy, nats an image")
    below.set(ylabel="error on validation images, %", xlabel="step")
    below.set_ylim(bottom=0)
    below.xaxis.get_major_locator().set_params(integer=True)
    above.plot([], [], color="black", linewidth=0.7, label="in training")
    above.plot([], [], color="black", linewidth=1.6, label="on validation images", **TOP1)
    below.plot([], [], color="black", label="top-1", **TOP1)
    below.plot([], [], color="black", label="top-5", **TOP5)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    save(figure, file)
