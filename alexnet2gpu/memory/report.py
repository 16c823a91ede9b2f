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

`sent_per_image` has an entry for each stage's end where ranks of a replica meet: what this rank sent to the
others there, for each image of the replica's share. It is empty where nothing is exchanged.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alexnet2gpu.config import text
from alexnet2gpu.config.keys import Config
from alexnet2gpu.memory.measured import StepMemory
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
    with StepMemory(parts, batch, config.train.accumulate > 1) as memory:
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
        rows.append(["exchanged, KiB an image", *(f"{bytes_ / 1024:.1f}" for bytes_ in sent)])
    return f"\n{text.table(rows)}\n"
