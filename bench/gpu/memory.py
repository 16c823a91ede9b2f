"""Memory of a step in every mode beside its prediction; the allocator's own record of a step."""

import pickle
from functools import partial

import torch

from alexnet2gpu.memory.any_mode import third_step
from alexnet2gpu.memory.predict import first_of, grid_here, parts_of, random_batch
from alexnet2gpu.memory.report import error_of
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.names import MODES
from bench.gpu.cases import DRY, config_of
from bench.gpu.items import Item, noted

BATCHES = (4,) if DRY else (128, 1024, 16)
PRECISIONS = ("float32",) if DRY else ("float32", "bfloat16")
OTHERS = "caffe", "textbook", "no_communication", "lenet", "quick"
RECORDED = [  # network, mode, batch, precision: whose allocations are recorded one by one
    ("alexnet", "single", 128, "float32"),
    ("alexnet", "single", 128, "bfloat16"),
    ("alexnet", "single", 1024, "bfloat16"),
    ("alexnet", "split", 128, "float32"),
    ("alexnet", "ddp", 128, "float32"),
    *((network, "single", 96, precision) for network in OTHERS for precision in PRECISIONS),
]
EVENTS = 100_000


def ranks_of(mode):
    return first_of(mode, 2, 2).world


def items():
    cases = [
        (mode, batch, precision)
        for batch in BATCHES
        for precision in PRECISIONS
        for mode in MODES
        if mode != "fsdp"
    ]
    # few ranks first: processes of the pool that are not of an item have a context on the GPU all the same
    cases.sort(key=lambda case: ranks_of(case[0]))
    return [Item("memory: {}, {}, {}".format(*case), figures, case, ranks_of(case[0]), 40) for case in cases]


def recorded():
    return [
        Item("snapshot: {}, {}, {}, {}".format(*case), snapshot, case, ranks_of(case[1]), 40, 1, dry=False)
        for case in RECORDED
    ]


def figures(mode, batch, precision):
    """What each rank held in its third step, and what was predicted; of rank 0 also where."""
    config = config_of(batch=batch, precision=precision)
    with Ranks(grid_here(mode, config.model.towers)) as ranks:
        entry = third_step(mode, config, ranks)
        moments = entry.pop("moments")
        entries = ranks.gather(entry)
    errors = [error_of(each["predicted"], each["measured"]) for each in entries]
    return noted({"errors": errors, "ranks": entries, "moments": moments})


def snapshot(network, mode, batch, precision):
    """Every allocation and release of a third step on rank 0, for https://docs.pytorch.org/memory_viz; and
    what was the most of it."""
    config = config_of(batch=batch, precision=precision, network=network)
    with Ranks(grid_here(mode, config.model.towers)) as ranks:
        found = record(mode, config, ranks)
        ranks.wait()
    name = f"{network}-{mode}-{batch}-{precision}.pickle"
    return noted(most_of()) | {"files": {name: found}}


def most_of():
    """Bytes at the peak: asked for, rounded by the allocator, taken from the driver."""
    stats = torch.cuda.memory_stats()
    return {what: stats[f"{what}_bytes.all.peak"] for what in ("requested", "allocated", "reserved")}


def record(mode, config, ranks):
    """A function of its own, since models must be gone when the ranks end."""
    parts, batch = parts_of(mode, config, ranks), random_batch(config, ranks)
    step = partial(train_step, parts.replicated, parts.optimizer, *batch, how_of(config))
    for number in range(3):
        parts.model.seed_dropout(0, ranks.grid.replica, number)
        torch.cuda.reset_peak_memory_stats()
        if number == 2 and ranks.grid.rank == 0:
            torch.cuda.memory._record_memory_history(max_entries=EVENTS, stacks="python")
        step()
    torch.cuda.synchronize()
    if ranks.grid.rank:
        return b""
    found = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    return pickle.dumps(found)
