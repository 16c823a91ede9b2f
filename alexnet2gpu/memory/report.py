"""Predicted and measured side by side: memory.json, and the table of a run.

    {"unit": "bytes", "batch": images of a step, "precision": ..., "ranks": [
      {"rank": 0, "replica": 0, "towers": [0], "device": "cpu",
       "measured": {category: bytes, ...},                    categories as in measure.py
       "predicted": {category: bytes, ...},
       "worst": [pass, tower, layer],                         where the peak is predicted to be
       "sent_per_image": [{"forward": bytes, "backward": bytes}, ...]}, ...]}

On CUDA, `measured` has two more: `driver`, what is in use on the rank's GPU after the step by the
driver's count, of all processes; and `residual`, what of this no rank has reserved, an equal share
for each rank on the GPU: CUDA's contexts, NCCL, libraries' own workspaces.

`sent_per_image` has an entry for each stage's end: what this rank sent to the other ranks of its
replica, for each image of the replica's share. It is empty where nothing is exchanged.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from alexnet2gpu.config.keys import Config
from alexnet2gpu.memory.measured.step import StepMemory
from alexnet2gpu.memory.predicted.step import Prediction
from alexnet2gpu.ranks.groups import Ranks

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
        "measured": memory.bytes | _beyond_the_allocator(ranks),
        "sent_per_image": sent,
    }
    if expected:
        entry |= {"predicted": expected.bytes, "worst": expected.worst.place}
    return result, entry


def _beyond_the_allocator(ranks):
    """On CUDA: `driver` and `residual`, read while no rank does anything else."""
    if ranks.device.type != "cuda":
        return {}
    ranks.wait()
    free, whole = torch.cuda.mem_get_info(ranks.device)
    gpu = str(torch.cuda.get_device_properties(ranks.device).uuid)
    reserved = ranks.gather((gpu, torch.cuda.memory_reserved(ranks.device)))
    return {"driver": whole - free, "residual": _residual(whole - free, gpu, reserved)}


def _residual(driver, gpu, reserved):
    """From what every rank has reserved, as (its GPU, bytes)."""
    here = [size for place, size in reserved if place == gpu]
    return (driver - sum(here)) // len(here)


def fullest(measured: Sequence[dict]) -> dict:
    """Of what was `measured` on each rank, at least one, that of the rank that held most."""
    return max(measured, key=lambda rank: rank["peak"])


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
    Measured is the rank that held most; with a `budget`, whether it fits, measured if it was."""
    lines = [_compared(row, budget) for row in rows]
    head = dict.fromkeys(name for line in lines for name in line)
    widths = {name: max(len(name), *(len(line.get(name, "")) for line in lines)) for name in head}
    text = ["  ".join(_cell(name, name, widths) for name in head).rstrip()]
    for line in lines:
        cells = (_cell(name, line.get(name, ""), widths) for name in head)
        text.append("  ".join(cells).rstrip())
    if any("measured" in row and "predicted" not in row for row in rows):
        text.append("fsdp: all as measured, nothing is predicted")
    return "\n".join(text)


def _cell(name, text, widths):
    words = name in ("mode", "precision", "worst in")
    return text.ljust(widths[name]) if words else text.rjust(widths[name])


def _compared(row, budget):
    """The cells of a row by the heads of their columns."""
    ranks, expected = row.get("measured"), row.get("predicted")
    most = fullest(ranks) if ranks else None
    line = {name: str(row[name]) for name in ("mode", "batch", "precision")}
    figures = expected or most or {}
    names = {"batch": "images", "saved_activations": "saved"}
    for name in ("weights", "gradients", "momentum", "buckets", "batch", "saved_activations"):
        line[names.get(name, name)] = _mib(figures.get(name))
    line["peak"] = _mib(expected and expected["peak"]) or "-"
    if ranks is not None:
        line["measured"] = _mib(most and most["peak"]) or "too much"
        line["error"] = f"{max(row['errors'], key=abs):+.2%}" if "errors" in row else ""
    for name in ("other", "reserved", "residual"):
        if most and name in most:
            line[name] = _mib(most[name])
    passing, _, layer = row.get("worst", ("", None, ""))
    fits = ""
    if budget is not None:
        held = expected if ranks is None else most  # none: out of memory
        fits = "fits" if held and held["peak"] <= budget else "does not fit"
    line["worst in"] = ", ".join(filter(None, [f"{passing} {layer}".strip(), fits]))
    return line


def _mib(size):
    return "" if size is None else f"{size / MIB:.1f}"
