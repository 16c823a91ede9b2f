"""Predicted and measured side by side: memory.json, and the table of a run.

    {"unit": "bytes", "batch": images of a step, "precision": ..., "ranks": [
      {"rank": 0, "replica": 0, "towers": [0], "device": "cpu",
       "measured": {category: bytes, ...},                    categories as in measured.py
       "predicted": {category: bytes, ...},
       "worst": [pass, tower, layer],                         where the peak is predicted to be
       "sent_per_image": [{"forward": bytes, "backward": bytes}, ...]}, ...]}

On CUDA, `measured` has two more: `driver`, what is in use on the rank's GPU after the step by the driver's
count, of all processes; and `residual`, what of this no rank has reserved, an equal share for each rank on
the GPU: CUDA's contexts, NCCL, libraries' own workspaces.

`sent_per_image` has an entry for each stage's end: what this rank sent to the other ranks of its replica,
for each image of the replica's share. It is empty where nothing is exchanged.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alexnet2gpu.config import text
from alexnet2gpu.config.keys import Config
from alexnet2gpu.memory.measured import StepMemory
from alexnet2gpu.memory.play import Estimate
from alexnet2gpu.memory.predict import predict_rank
from alexnet2gpu.ranks.assemble import Parts
from alexnet2gpu.ranks.groups import Ranks

MIB = 2**20
ON_CUDA = ("other", "allocated", "reserved", "driver", "residual")  # what is measured there alone


def measure(
    step: Callable[[], Any],
    parts: Parts,
    batch: Sequence[Tensor],
    config: Config,
    ranks: Ranks,
    predicted: bool = True,
) -> tuple[Any, dict, list]:
    """Carry out a step of `parts` on a `batch` and count what this rank holds and sends. `predicted`: whether
    it is to be predicted, too; not so under FSDP.

    Returns: what `step` returns; this rank's entry of memory.json; the most that was held in every place of
        the step (places.py).
    """
    grid, images = ranks.grid, config.train.batch // ranks.grid.replicas
    before = [dict(link.sent) for link in ranks.links]
    with StepMemory(parts, batch) as memory:
        result = step()
    sent = [
        {way: (link.sent[way] - old[way]) // images for way in old} for link, old in zip(ranks.links, before)
    ]
    entry = {
        "rank": grid.rank,
        "replica": grid.replica,
        "towers": list(grid.towers),
        "device": ranks.device_name(),
        "measured": memory.bytes | _beyond_the_allocator(ranks),
        "sent_per_image": sent,
    }
    if predicted:
        expected = predict_rank(config, grid, ranks.device.type == "cuda")
        entry |= {"predicted": expected.bytes, "worst": expected.worst.place}
    return result, entry, memory.moments


def _beyond_the_allocator(ranks):
    """On CUDA: `driver` and `residual`, read while no rank does anything else."""
    if ranks.device.type != "cuda":
        return {}
    ranks.wait()
    free, whole = torch.cuda.mem_get_info(ranks.device)
    reserved = zip((seat.gpu for seat in ranks.seats), ranks.gather(torch.cuda.memory_reserved(ranks.device)))
    gpu = ranks.seats[ranks.grid.rank].gpu
    return {"driver": whole - free, "residual": _residual(whole - free, gpu, reserved)}


def _residual(driver, gpu, reserved):
    """From what every rank has reserved, as (its GPU, bytes)."""
    here = [size for its_gpu, size in reserved if its_gpu == gpu]
    return (driver - sum(here)) // len(here)


def fullest(measured: Sequence[dict]) -> dict:
    """Of what was `measured` on each rank, at least one, that of the rank that held most."""
    return max(measured, key=lambda rank: rank["peak"])


def error_of(predicted: dict, measured: dict) -> float:
    """Of a peak, relative; a prediction knows nothing of what was there before the step."""
    return predicted["peak"] / (measured["peak"] - measured.get("other", 0)) - 1


def document(config: Config, ranks: Sequence[dict]) -> dict:
    """memory.json of these ranks."""
    train = config.train
    return {"unit": "bytes", "batch": train.batch, "precision": train.precision, "ranks": ranks}


def table(ranks: Sequence[dict]) -> str:
    """The `ranks` of memory.json as text, in MiB, a column for each; nothing if no step was measured."""
    if not ranks:
        return ""
    towers = ["towers " + "+".join(map(str, rank["towers"])) for rank in ranks]
    rows = [["memory, MiB", *(f"rank {rank['rank']}" for rank in ranks)], ["", *towers]]
    for category in ranks[0]["measured"]:
        held = [rank["measured"][category] for rank in ranks]
        if any(held):
            rows.append([category.replace("_", " "), *(f"{bytes_ / MIB:.2f}" for bytes_ in held)])
    rows.append(["peak, as predicted", *(f"{rank['predicted']['peak'] / MIB:.2f}" for rank in ranks)])
    sent = [sum(sum(way.values()) for way in rank["sent_per_image"]) for rank in ranks]
    if any(sent):
        rows.append(["sent, KiB an image", *(f"{bytes_ / 1024:.1f}" for bytes_ in sent)])
    return f"\n{text.table(rows)}\n"


def row(
    mode: str, number: int, config: Config, expected: Estimate | str, ranks: Sequence[dict] | None
) -> dict:
    """A line of launch/memory.py's table, of a mode on a `number` of ranks: what is `expected`, or why it
    cannot be, and what was measured on the `ranks`, if it was; on none if a GPU's memory did not suffice."""
    entry = {"mode": mode, "ranks": number, "batch": config.train.batch, "precision": config.train.precision}
    if isinstance(expected, str):
        return entry | {"mistake": expected}
    worst = expected.worst
    entry |= {"predicted": expected.bytes, "worst": worst.place, "at_worst": worst.parts}
    if ranks is not None:
        entry["measured"] = [rank["measured"] for rank in ranks]
        entry["errors"] = [error_of(expected.bytes, rank["measured"]) for rank in ranks]
        entry["device"] = ranks[0]["device"] if ranks else "cuda, out of memory"
    return entry


def comparison(rows: Sequence[dict], budget: int | None = None) -> str:
    """Lines of launch/memory.py as text: modes and batches, predicted and measured, in MiB a rank. Measured
    is the rank that held most; with a `budget`, whether it fits, measured if it was."""
    lines = [_compared(row, budget) for row in rows]
    head = list(dict.fromkeys(name for line in lines for name in line))
    head.append(head.pop(head.index("worst in")))
    empty = [name for name in head if {line.get(name, "") for line in lines} <= {"", "0.0"}]
    one_config = ["config"] if len({row["config"] for row in rows}) == 1 else []
    head = [name for name in head if name not in (*empty, *one_config)]
    cells = [[line.get(name, "") for name in head] for line in lines]
    words = [head.index(name) for name in ("config", "mode", "precision", "worst in") if name in head]
    return text.table([head, *cells], words)


def _compared(row, budget):
    """The cells of a row by the heads of their columns."""
    ranks, expected = row.get("measured"), row.get("predicted", {})
    most = fullest(ranks) if ranks else {}  # of no ranks: out of memory
    line = {name: str(row[name]) for name in ("config", "mode", "ranks", "batch", "precision")}
    if "mistake" in row:
        return line | {"worst in": row["mistake"]}
    names = {"batch": "images", "saved_activations": "saved"}
    for name in ("weights", "gradients", "momentum", "buckets", "batch", "saved_activations"):
        line[names.get(name, name)] = _mib(expected, name)
    line["peak"] = _mib(expected, "peak")
    if ranks is not None:
        line["measured"] = _mib(most, "peak") or "too much"
        line["error"] = f"{max(row['errors'], key=abs):+.2%}" if row["errors"] else ""
    if "reserved" in expected:
        line["reserved, predicted"] = _mib(expected, "reserved")
    line |= {name: _mib(most, name) for name in ON_CUDA if name in most}
    line["worst in"] = place_text(row["worst"])
    if budget is not None:
        held = expected if ranks is None else most
        fits = "fits" if held and held.get("reserved", held["peak"]) <= budget else "does not fit"
        line["worst in"] += f", {fits}"
    return line


def layers(expected: Estimate) -> list[dict]:
    """What is held in every place of a step, at its worst there, by kind, in bytes."""
    return [{"place": moment.place, "bytes": moment.bytes, **moment.parts} for moment in expected.moments]


def layers_text(row: dict) -> str:
    """The `layers` of a row as text, in MiB."""
    kinds = _kinds([row])
    lines = [["step", "tower", *kinds, "in all"]]
    for layer in row["layers"]:
        held = [f"{layer[kind] / MIB:.1f}" if layer.get(kind) else "" for kind in kinds]
        tower = layer["place"][1].split(".")[1] if layer["place"][1].startswith("towers.") else ""
        lines.append([place_text(layer["place"]), tower, *held, f"{layer['bytes'] / MIB:.1f}"])
    title = f"{row['config']}, {row['mode']}, batch {row['batch']}, {row['precision']}: MiB in each place"
    return f"\n{title}\n{text.table(lines, [0])}"


def layers_csv(rows: Sequence[dict]) -> str:
    """The `layers` of all rows as CSV, in bytes."""
    kinds, keys = _kinds(rows), ("config", "mode", "batch", "precision")
    lines = [["config", "mode", "images", "precision", "pass", "module", *kinds, "in all"]]
    for row in rows:
        for layer in row.get("layers", ()):
            held = [layer.get(kind, 0) for kind in kinds]
            lines.append([*(row[key] for key in keys), *layer["place"], *held, layer["bytes"]])
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def _kinds(rows):
    found = [kind for row in rows for layer in row.get("layers", ()) for kind in layer]
    return [kind for kind in dict.fromkeys(found) if kind not in ("place", "bytes")]


def place_text(place: Sequence[str]) -> str:
    """A place of a step (places.py) in words: `backward relu4`."""
    passing, module = place
    layer = module.split(".", 2)[-1] if module.startswith("towers.") else module
    return passing if passing in ("start", "update") else f"{passing} {layer or 'join'}"


def _mib(figures, name):
    return f"{figures[name] / MIB:.1f}" if name in figures else ""
