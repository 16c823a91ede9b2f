"""Predicted and measured side by side: memory.json, and the table of a run.

    {"unit": "bytes", "batch": images of a step, "precision": ..., "ranks": [
      {"rank": 0, "replica": 0, "towers": [0], "device": "cpu",
       "measured": {category: bytes, ...},                    categories as in measure.py
       "predicted": {category: bytes, ...},
       "worst": [pass, tower, layer],                         where the peak is predicted to be
       "sent_per_image": [{"forward": bytes, "backward": bytes}, ...]}, ...]}

`sent_per_image` has an entry for each stage's end: what this rank sent to the other ranks of its
replica, for each image of the replica's share. It is empty where nothing is exchanged.
"""

from collections.abc import Callable, Sequence
from typing import Any

from alexnet2gpu.config import Config
from alexnet2gpu.memory.measure import StepMemory
from alexnet2gpu.memory.predict import Prediction
from alexnet2gpu.ranks import Ranks

MIB = 2**20


def measure(
    step: Callable[[], Any],
    memory: StepMemory,
    ranks: Ranks,
    config: Config,
    expected: Prediction | None,
) -> tuple[Any, dict]:
    """Carry out `step` within `memory`. Returns: what it returns, and this rank's entry of
    memory.json, with what was `expected` of it."""
    before = [dict(link.sent) for link in ranks.links]
    with memory:
        result = step()
    grid, images = ranks.grid, config.train.batch // ranks.grid.replicas
    sent = [
        {way: (link.sent[way] - old[way]) // images for way in old}
        for link, old in zip(ranks.links, before)
    ]
    entry = {
        "rank": grid.rank,
        "replica": grid.replica,
        "towers": list(grid.towers),
        "device": ranks.device_name(),
        "measured": memory.bytes,
        "sent_per_image": sent,
    }
    if expected:
        entry |= {"predicted": expected.bytes, "worst": expected.worst.place}
    return result, entry


def document(config: Config, ranks: Sequence[dict]) -> dict:
    """memory.json of these ranks."""
    train = config.train
    return {
        "unit": "bytes", "batch": train.batch, "precision": train.precision, "ranks": ranks,
    }  # fmt: skip


def table(ranks: Sequence[dict]) -> str:
    """The `ranks` of memory.json as text, in MiB, a column for each; nothing if no step was
    measured."""
    if not ranks:
        return ""
    head = [f"rank {rank['rank']}" for rank in ranks]
    towers = ["towers " + "+".join(map(str, rank["towers"])) for rank in ranks]
    width = max(len(cell) for cell in [*head, *towers])
    lines = [_line("memory, MiB", head, width), _line("", towers, width)]
    for category in ranks[0]["measured"]:
        held = [rank["measured"][category] for rank in ranks]
        if any(held):
            cells = [f"{bytes_ / MIB:.2f}" for bytes_ in held]
            lines.append(_line(category.replace("_", " "), cells, width))
    expected = [f"{rank['predicted']['peak'] / MIB:.2f}" for rank in ranks]
    lines.append(_line("peak, as predicted", expected, width))
    sent = [
        sum(direction for stage in rank["sent_per_image"] for direction in stage.values())
        for rank in ranks
    ]
    if any(sent):
        cells = [f"{bytes_ / 1024:.1f}" for bytes_ in sent]
        lines.append(_line("sent, KiB an image", cells, width))
    return "\n".join(["", *lines, ""])


def _line(name, cells, width):
    return f"{name:<20}" + "".join(f"  {cell:>{width}}" for cell in cells)


def comparison(rows: Sequence[dict], budget: int | None = None) -> str:
    """Lines of launch/memory.py as text: modes and batches, predicted and measured, in MiB a rank.
    Measured is the rank that held most; with a `budget`, whether that fits."""
    names = ["weights", "gradients", "momentum", "buckets", "batch", "saved_activations"]
    head = ["mode", "batch", "precision", *names[:5], "saved", "peak", "measured", "error"]
    lines = [[*head, "worst in"]]
    for row in rows:
        ranks = row.get("measured")
        most = max(ranks, key=lambda rank: rank["peak"]) if ranks else None
        figures = row.get("predicted") or most or {}
        cells = [row["mode"], row["batch"], row["precision"]]
        cells += [f"{figures[name] / MIB:.1f}" if figures else "" for name in names]
        expected = row.get("predicted")
        cells.append(f"{expected['peak'] / MIB:.1f}" if expected else "-")
        cells.append(f"{most['peak'] / MIB:.1f}" if most else "-" if ranks is None else "too much")
        errors = row.get("errors")
        cells.append(f"{max(errors, key=abs):+.2%}" if errors else "")
        passing, tower, layer = row.get("worst", ("", None, ""))
        cells.append(f"{passing} {layer}")
        if budget and most:
            cells[-1] += ", fits" if most["peak"] <= budget else ", does not fit"
        lines.append([str(cell) for cell in cells])
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = [
        "  ".join(
            cell.ljust(width) if place in (0, 2, 12) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]
    return "\n".join(["MiB a rank", *text])
