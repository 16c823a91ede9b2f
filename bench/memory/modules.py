"""Modules that this project does not know, from torchvision: what estimate() says of a step, what torch's
allocator gives, and what MemTracker says, which is in torch (torch.distributed._tools)."""

import gc
from functools import partial

import torch
import torchvision
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import ProfilerConfig, ProfilerState, _disable_profiler_legacy, _enable_profiler_legacy
from torch.nn import functional as F

from alexnet2gpu.memory import estimate
from alexnet2gpu.memory.places import without_garbage

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
BATCHES = (8, 32)
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=0.001),
}


def modules(_):
    """Of each, batch and optimizer, three peaks of a step, in bytes."""
    found = []
    for name in NAMES:
        for batch in BATCHES:
            for kind, make_optimizer in OPTIMIZERS.items():
                make = getattr(torchvision.models, name)
                images, labels = ((batch, 3, 224, 224), torch.float32), ((batch,), torch.int64)
                row = {"module": name, "batch": batch, "optimizer": kind}
                row["estimated"] = estimate(make, images, labels, make_optimizer).peak
                row["memtracker"] = by_memtracker(make, batch, make_optimizer)
                row["allocator"] = by_allocator(make, batch, make_optimizer)
                print(row, f"{row['estimated'] / row['allocator'] - 1:+.3%}", flush=True)
                found.append(row)
    return found


def parts_of(make, batch, make_optimizer):
    """A module, its optimizer, images and labels, and a function that does a step."""
    model = make()
    optimizer = make_optimizer(model.parameters())
    images, labels = torch.randn(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.int64)

    def step():
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return model, optimizer, images, labels, step


def by_allocator(make, batch, make_optimizer):
    """What torch gives in a second step, and what was there before."""
    model, optimizer, images, labels, step = parts_of(make, batch, make_optimizer)
    step()
    optimizer.zero_grad()
    state = [v for values in optimizer.state.values() for v in values.values() if torch.is_tensor(v)]
    held = most = sum(t.nbytes for t in [*model.parameters(), *model.buffers(), *state, images, labels])
    config = torch._C._profiler._ExperimentalConfig()
    with without_garbage():
        _enable_profiler_legacy(ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, config))
        step()
        threads = _disable_profiler_legacy()
    for event in max(threads, key=len):
        if event.kind() == "memory_alloc":
            held += event.cpu_memory_usage()
            most = max(most, held)
    return most


def by_memtracker(make, batch, make_optimizer):
    """What torch's own tracker says of a second step; None if it fails."""
    from torch.distributed._tools.mem_tracker import MemTracker

    try:
        with FakeTensorMode():
            model, optimizer, images, labels, step = parts_of(make, batch, make_optimizer)
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
