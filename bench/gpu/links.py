"""Between ranks: what a link carries, modes side by side, the split's step as a graph with collectives."""

import time
from functools import partial

import torch

from alexnet2gpu.memory.any_mode import third_step
from alexnet2gpu.memory.predict import grid_here, parts_of, random_batch
from alexnet2gpu.model.device import gpus, set_tf32
from alexnet2gpu.model.graph import GraphedStep
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.torchrun import grid_of
from bench.gpu.cases import DRY, config_of, milliseconds, size_of
from bench.gpu.items import Item, noted
from bench.gpu.memory import ranks_of

BATCHES = (4,) if DRY else (32, 128, 512, 1024)
TIMES = 2 if DRY else 20
CAUGHT = "the split's step as a graph"


def items():
    modes = [(mode, batch) for batch in BATCHES for mode in ("single", "split", "ddp")]
    return [
        Item("ranks: exchange", exchange, (), 2, 40, 2),
        *(Item("ranks: {}, batch {}".format(*c), step, c, ranks_of(c[0]), 40, 2) for c in modes),
        Item("ranks: peers", peers, (), 1, 30, 2, dry=False),
        Item(f"ranks: {CAUGHT}", caught, (), 2, 45, 2, dry=False, may_fail=True),
    ]


def exchange():
    """GB/s, each way, over the links of the split: halves of the exchanges of alexnet.yaml at batch 128, and
    a large one, from the bytes that a rank sends."""
    shapes = {"exchange 1": (128, 13, 13), "exchange 2": (128, 6, 6), "exchange 3": (2048,)}
    sizes = {name: (size_of(128), *shape) for name, shape in shapes.items()}
    sizes["large"] = size_of(1024), 1024, 16, 16
    found = {}
    with Ranks(grid_of(2, "split")) as ranks:
        ranks.connect(config_of().model)
        (link, *_) = ranks.links
        for name, shape in sizes.items():
            half = torch.randn(shape, device=ranks.device)
            if half.dim() == 4:
                half = half.contiguous(memory_format=torch.channels_last)
            whole = torch.cat([half, half], 1)
            for way, work in {
                "forward": partial(link.gather, half),
                "backward": partial(link.reduce_scatter, whole),
            }.items():
                found[f"{name}, {way}"] = rate(link, way, work, ranks)
        said = ", ".join(ranks.backends)
        del link
    return noted({"GB/s": found, "backend": said})


def rate(link, way, work, ranks):
    """GB a second that this rank sends."""
    for _ in range(2):
        work()
    settle(ranks)
    before, start = link.sent[way], time.perf_counter()
    for _ in range(TIMES):
        work()
    settle(ranks)
    return float(f"{(link.sent[way] - before) / (time.perf_counter() - start) / 1e9:.3g}")


def settle(ranks):
    """Until this rank's GPU is done; then until all are."""
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()
    ranks.wait()


def step(mode, batch):
    """Milliseconds and images a second of a step in float32 (TF32) and bfloat16, memory with NCCL's share."""
    figures = {}
    for precision in ("float32",) if DRY else ("float32", "bfloat16"):
        config = config_of(batch=batch, precision=precision)
        with Ranks(grid_here(mode, config.model.towers)) as ranks:
            ms = timed(mode, config, ranks, graph=mode == "single" and not DRY)  # as training has it
            entry = third_step(mode, config, ranks)["measured"]
            ms, entries = max(ranks.gather(ms)), ranks.gather(entry)
        names = [name for name in ("peak", "reserved", "residual", "driver") if name in entry]
        found = {"ms": ms, "images_per_second": round(1000 * config.train.batch / ms)}
        figures[precision] = found | {name: [each[name] for each in entries] for name in names}
    return noted(figures)


def timed(mode, config, ranks, graph=False):
    """Milliseconds of a step. A function of its own, since models must be gone when the ranks end."""
    one_step = stepper(mode, config, ranks, graph)
    for _ in range(4):  # a graph is recorded at the third
        one_step()
    settle(ranks)
    start = time.perf_counter()
    for _ in range(TIMES):
        one_step()
    settle(ranks)
    return 1000 * (time.perf_counter() - start) / TIMES


def stepper(mode, config, ranks, graph):
    """A function that does a step, as a graph or without."""
    parts, batch = parts_of(mode, config, ranks), random_batch(config, ranks)
    set_tf32(True)
    seed = partial(parts.model.seed_dropout, 0, ranks.grid.replica)
    update = partial(train_step, parts.replicated, parts.optimizer, how=how_of(config))
    if graph:
        update = GraphedStep(parts.model, parts.optimizer, how_of(config))
    count = iter(range(10**9))

    def one_step():
        seed(next(count))
        update(*batch)

    return one_step


def peers():
    """Whether each GPU reaches each other's memory, and how fast a copy is."""
    pairs = [(a, b) for a in range(gpus()) for b in range(gpus()) if a != b]
    reached = {f"{a} to {b}": torch.cuda.can_device_access_peer(a, b) for a, b in pairs}
    size, found = 2**28, {}
    for a, b in pairs[:2]:
        x = torch.empty(size, dtype=torch.uint8, device=f"cuda:{a}")
        y = torch.empty(size, dtype=torch.uint8, device=f"cuda:{b}")
        torch.cuda.set_device(a)
        found[f"{a} to {b}, GB/s"] = round(size / milliseconds(lambda: y.copy_(x)) / 1e6, 1)
    return noted({"reached": reached, "copy": found})


def caught():
    """The split's whole step, NCCL's collectives in it, as a CUDA graph: it works, or why not."""
    config = config_of(precision="bfloat16")
    with Ranks(grid_here("split", config.model.towers)) as ranks:
        ms = {name: timed("split", config, ranks, name == "graph") for name in ("eager", "graph")}
        ms = {name: max(ranks.gather(each)) for name, each in ms.items()}
    return noted({"ms": ms})
