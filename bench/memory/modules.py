"""Modules that this project does not know, torchvision's: what estimate() says of a training step, what
torch's allocator gives, and what others say: MemTracker, which is in torch (torch.distributed._tools), and
torch-kitsune, if it is installed.

    python -m bench.memory.modules

Goes to bench/results/memory-modules.json, and from there into docs/memory.md. Half an hour on two cores.
"""

import gc
import itertools
from functools import partial

import torch
import torch.distributed as dist
import torchvision
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from alexnet2gpu.memory import How, estimate
from alexnet2gpu.memory.any_module import shard
from alexnet2gpu.memory.measured import Profile
from alexnet2gpu.memory.places import Places, without_garbage
from alexnet2gpu.model.optim import local
from bench.memory.cases import PAGE
from bench.processes import Pool
from bench.results import RESULTS, origin, read_json, redraw, table, write_json

NAMES = (
    "alexnet",
    "vgg11",
    "resnet18",
    "resnet50",
    "mobilenet_v3_large",
    "squeezenet1_1",
    "densenet121",
    "vit_b_16",
)
PARALLEL = ("alexnet", "resnet18", "squeezenet1_1")  # in these, the same on two ranks
BATCHES = (8, 32)
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=0.001),
}
FILE = RESULTS / "memory-modules.json"


def alone():
    """On one device, of each, batch and optimizer: peaks of a step, in bytes."""
    for batch, kind, name in itertools.product(BATCHES, OPTIMIZERS, NAMES):
        yield {
            **_row(name, batch, kind),
            "allocator": [by_allocator(name, batch, kind)],
            "memtracker": by_memtracker(name, batch, kind),
            "kitsune": by_kitsune(name, batch, kind),
        }


def parallel():
    """On two ranks: the same of PARALLEL, at batch 8 a rank."""
    pool = Pool()
    try:
        for name in PARALLEL:
            for mode in ("ddp", "fsdp"):
                found = pool(on_rank, 2, mode, name, 8, "SGD", patience=300)
                yield {**_row(name, 16, "SGD", mode, 2), "allocator": found}
    finally:
        pool.close()


def _row(name, batch, kind, mode="single", ranks=1):
    given = ((batch, 3, 224, 224), torch.float32), ((batch,), torch.int64)
    estimated = estimate(getattr(torchvision.models, name), *given, OPTIMIZERS[kind], How(mode, ranks)).peak
    return {"module": name, "mode": mode, "batch": batch, "optimizer": kind, "estimated": estimated}


def parts_of(name, batch, kind, change=lambda model: model):
    """A module, as it is called, its optimizer, images and labels, and a function that does a step."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)()
    called = change(model)
    optimizer = OPTIMIZERS[kind](model.parameters())
    images, labels = torch.randn(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.int64)

    def step():
        output = called(images)
        F.cross_entropy(output, labels).backward()
        optimizer.step()

    return model, optimizer, images, labels, step


def by_allocator(name, batch, kind, change=lambda model: model, beside=lambda model: 0, steps=1):
    """What torch's allocator gives in a step after two others, with what was there before; of several, the
    least."""
    model, optimizer, images, labels, step = parts_of(name, batch, kind, change)
    peaks = []
    for number in range(2 + steps):
        optimizer.zero_grad()
        if number < 2:
            step()
            continue
        state = [v for values in optimizer.state.values() for v in values.values() if torch.is_tensor(v)]
        tensors = [*model.parameters(), *model.buffers(), *state, images, labels]
        held, meter = sum(local(tensor).nbytes for tensor in tensors) + beside(model), Profile()
        with without_garbage(), Places(model, optimizer, meter.arrive, meter.end_forward):
            meter.start()
            step()
            meter.stop(held)
        peaks.append(max(held for _, held in meter.moments))
    return min(peaks)


def on_rank(mode, *of):
    """The same on a rank of a group."""
    dist.init_process_group("gloo")
    try:
        if mode == "ddp":
            replicate = partial(DistributedDataParallel, gradient_as_bucket_view=True)
            # whose buckets are there from the first step on
            return by_allocator(*of, replicate, lambda model: sum(p.nbytes for p in model.parameters()))

        def sharded(model):
            shard(model, init_device_mesh("cpu", (2,)))
            return model

        return by_allocator(*of, sharded, steps=8)
    finally:
        dist.destroy_process_group()


def by_memtracker(*of):
    """What torch's own tracker says of a second step; None if it fails."""
    from torch.distributed._tools.mem_tracker import MemTracker

    try:
        with FakeTensorMode():
            model, optimizer, images, labels, step = parts_of(*of)
            tracker = MemTracker()
            tracker.track_external(model, optimizer, images, labels)
            with tracker:
                for _ in range(2):
                    tracker.reset_mod_stats()
                    step()
                    optimizer.zero_grad()
            peaks = tracker.get_tracker_snapshot("peak")
        return max(int(snapshot["Total"]) for snapshot in peaks.values())
    except Exception as error:
        print(f"MemTracker: {error!r}"[:200])
        return None
    finally:
        gc.collect()


def by_kitsune(name, batch, kind):
    """What torch-kitsune says, without what it adds for a GPU; None if it is not there, or fails."""
    try:
        from kitsune.predict import predict_memory

        model = getattr(torchvision.models, name)()
        said = predict_memory(model, input_shape=(3, 224, 224), batch_size=batch, optimizer=kind.lower())
        return said.param_bytes + said.gradient_bytes + said.optimizer_bytes + said.activation_bytes
    except Exception as error:
        print(f"kitsune: {error!r}"[:200])
        return None


def modules_table(found):
    """A row for each module and mode: the worst error over batches and optimizers."""
    lines, columns = [], ("estimated", "memtracker", "kitsune")
    found = [row for part in found.values() for row in part["found"]]
    for name, mode in dict.fromkeys((row["module"], row["mode"]) for row in found):
        rows = [row for row in found if (row["module"], row["mode"]) == (name, mode)]
        cells = []
        for column in columns:
            errors = [row[column] / peak - 1 for row in rows if row.get(column) for peak in row["allocator"]]
            cells.append(f"{max(errors, key=abs):+.2%}" if errors else "-")
        where = {"single": "one device", "ddp": "DDP over 2", "fsdp": "FSDP2 over 2"}[mode]
        lines.append([name, where, len(rows), *cells])
    return table(["", "", "cases", "estimate()", "MemTracker", "torch-kitsune"], lines)


def main():
    found = read_json(FILE)
    for part in (parallel, alone):
        rows = []
        for row in part():
            rows.append(row)
            print(*row.values(), f"{row['estimated'] / max(row['allocator']) - 1:+.3%}", flush=True)
            found[part.__name__] = {**origin(), "threads": torch.get_num_threads(), "found": rows}
            write_json(FILE, found)
    redraw(PAGE, {"modules": modules_table(found)})


if __name__ == "__main__":
    main()
