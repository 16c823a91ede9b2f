"""One process of a contender: builds it, then does steps whenever it is told to.

    python -m bench.speed.rank NAME CONFIG BATCH THREADS PRECISION ALLOCATOR

NAME is a mode of ours or a port, and what is otherwise about it: "port, last, fused".

    no compiler   normalisation by torch's operations         last       channels last
    MKL           fully connected layers by torch's choice    fused      SGD in one kernel
    compiled      torch.compile: of a port, of our stages     graph      a step as one CUDA graph

A line on stdin, the number of steps, gives a line of JSON on stdout: seconds of each step and of its parts,
in order of the step. Ranks of one contender get the same lines.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import totals
from alexnet2gpu.memory.predict import grid_here, parts_of, random_batch
from alexnet2gpu.model import linear
from alexnet2gpu.model.device import gpus
from alexnet2gpu.model.graph import GraphedStep
from alexnet2gpu.model.norm import layer
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.machine import keep_freed_memory
from bench.speed.ports import Columns, Port, torchvisions, usual_sgd, usual_step
from bench.speed.rates import rates

PORTS = {"port": Port, "columns": Columns, "torchvision": torchvisions}
OURS = "single", "split", "ddp", "hybrid", "fsdp"


class Watch:
    """Reads the clock at the start of the update, and where it is told that forward has ended; of a step that
    is one graph, before and after."""

    def __init__(self, optimizer, device):
        self.on_gpu, self.marks = device.type == "cuda", []
        optimizer.register_step_pre_hook(lambda *_: self.mark())

    def mark(self):
        if self.on_gpu:
            if torch.cuda.is_current_stream_capturing():
                return
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())

    def step(self, step):
        """Do a step. Returns: seconds, of all, forward, loss and backward, update, exchange."""
        self.marks, self.exchange = [], 0.0
        self.mark()
        step()
        self.mark()
        start, *between, end = self.marks
        each = 0, 0, 0
        if between:
            forward, backward = between
            each = forward - start, backward - forward, end - backward
        return [end - start, *each, 0 if self.on_gpu else self.exchange]

    def listen(self, link):
        """Count the time that a link takes to start, and that it waits."""
        for name in ("start_gather", "start_scatter"):
            setattr(link, name, partial(self._start, getattr(link, name)))

    def _start(self, start, *args):
        return partial(self._timed, self._timed(start, *args))

    def _timed(self, function, *args):
        before = time.perf_counter()
        result = function(*args)
        self.exchange += time.perf_counter() - before
        return result


def ours(name, config, ranks):
    """A step of our training, the watch, and what is sent in it."""
    mode, *changes = name.split(", ")
    if "no compiler" in changes:
        layer.has_kernels = lambda *of: False
    if "MKL" in changes:
        linear.suits_onednn = lambda x: False
    model, replicated, optimizer = parts_of(mode, config, ranks)
    batch = random_batch(config, ranks)
    if "compiled" in changes:
        torch._dynamo.config.recompile_limit = 64  # more than towers times stages
        for tower in model.towers.values():
            tower.forward = torch.compile(tower.forward)
    watch, done = Watch(optimizer, ranks.device), [0]
    model.register_forward_hook(lambda *_: watch.mark())
    for link in ranks.links:
        watch.listen(link)
    update = partial(train_step, replicated, optimizer, *batch, how_of(config))
    if "graph" in changes:
        update = partial(GraphedStep(model, optimizer, how_of(config)), *batch)

    def step():
        model.seed_dropout(0, ranks.grid.replica, done[0])
        done[0] += 1
        update()

    def sent():
        links = sum(sum(link.sent.values()) for link in ranks.links) // max(1, done[0])
        # on two ranks, on paper: an all-reduce; two gatherings of weights and a scattering
        parameters = 4 * totals(config.model)[0]
        return links or {"ddp": parameters, "fsdp": 3 * parameters // 2}.get(mode)

    return step, watch, sent


def port(name, config, device):
    """The same of a port."""
    kind, *changes = name.split(", ")
    model = PORTS[kind](config.model).to(device)
    optimizer = usual_sgd(model, fused="fused" in changes)
    images = 60 * torch.randn(config.train.batch, *config.model.input, device=device)
    labels = torch.randint(1000, (config.train.batch,), device=device)
    if "last" in changes:
        model, images = (t.to(memory_format=torch.channels_last) for t in (model, images))
    watch = Watch(optimizer, device)
    called = torch.compile(model) if "compiled" in changes else model
    step = partial(usual_step, called, optimizer, images, labels, config.train.precision, watch.mark)
    return graphed(step) if "graph" in changes else step, watch, lambda: None


def graphed(step):
    """A function that replays a port's `step`, all of it one CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # as torch's notes on graphs have it, before capture
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
        step()

    def replay(step=step):  # which keeps alive what the graph reads and writes
        graph.replay()

    return replay


def peak(device):
    """Bytes: of the allocator on a GPU, resident on the CPU, libraries and all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def serve(name, config, allocator):
    threads, kept = config.train.threads, allocator == "kept"
    mode = name.split(", ")[0]
    if mode in OURS:
        with Ranks(grid_here(mode, config.model.towers), threads, kept) as ranks:
            answer(*ours(name, config, ranks), config, ranks.device, name)
        return
    device = torch.device("cuda" if gpus() else "cpu")
    torch.set_num_threads(threads)
    if kept and device.type == "cpu":
        keep_freed_memory()
    answer(*port(name, config, device), config, device, name)


def answer(step, watch, sent, config, device, name):
    for _ in range(2):
        watch.step(step)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        said = {"seconds": [watch.step(step) for _ in range(int(line))], "sent": sent(), "peak": peak(device)}
        found = rates(config, device) if name == "single" else None
        print(json.dumps(said | {"rates": found}), flush=True)


if __name__ == "__main__":
    name, file, size, threads, precision, allocator = sys.argv[1:]
    settings = [f"train.batch={size}", f"train.threads={threads}", f"train.precision={precision}"]
    serve(name, load_config(file, settings), allocator)
