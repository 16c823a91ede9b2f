"""The speed of a whole step, contenders interleaved in one process, and the bars that it has to clear.

    ours           alexnet.yaml, the faithful network, as it is trained
    port           the ordinary one: caffe.yaml, groups, channels first, nn.LocalResponseNorm
    port, last     the same with channels last and fused SGD
    torchvision    torchvision.models.alexnet, smaller and without normalisation, with the same treatment:
                   channels last, fused SGD

Each as it is and as one CUDA graph, in TF32 (convolutions and products) and in bfloat16 (autocast).
"""

import statistics
from functools import partial

import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.device import set_tf32
from alexnet2gpu.model.graph import GraphedStep
from alexnet2gpu.model.step import How, train_step
from bench.gpu.bars import judged
from bench.gpu.cases import DEVICE, DRY, alone, batch_of, config_of, size_of, timer
from bench.gpu.items import Item
from bench.speed.ports import Port, torchvisions, usual_sgd, usual_step
from bench.speed.rank import graphed
from bench.turns import take_turns

CONTENDERS = ("ours", "port", "torchvision", "port, last")  # the first are built first
PRECISIONS = {"TF32": "float32", "bfloat16": "bfloat16"}
ROUNDS = 1 if DRY else 5


def items():
    return [
        Item("speed: batch 128", speed, (128, ("TF32", "bfloat16")), seconds=100),
        Item("speed: batch 1024, bfloat16", speed, (1024, ("bfloat16",)), 1, 60, 1, dry=False),
        Item("speed: batch 1024, TF32", speed, (1024, ("TF32",)), 1, 60, 1, dry=False),
    ]


def speed(batch, arithmetics):
    """Milliseconds of a step and images a second of every contender that fits; the bars. Those that the GPU
    has no room for are named."""
    set_tf32(True)
    clocks, why, peaks = {}, {}, {}
    for arithmetic in arithmetics:
        for who in CONTENDERS:
            name = f"{who}, {arithmetic}"
            reset_peak()
            try:
                step = contender(who, size_of(batch), PRECISIONS[arithmetic])
                clocks[name] = timer(step)
                peaks[name] = peak()
                if not DRY:
                    name += ", graph"
                    clocks[name] = timer(as_graph(step))
                    peaks[name] = peak()
            except Exception as error:  # whatever one of them cannot do, the others are compared
                why[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    found = take_turns(clocks, ROUNDS, warm_up=0 if DRY else 1)
    ms = {name: statistics.median(rounds) for name, rounds in found.items()}
    device = "cpu" if DRY else torch.cuda.get_device_name()
    figures = {
        "ms": ms,
        "spread": {name: [min(rounds), max(rounds)] for name, rounds in found.items()},
        "images_per_second": {name: round(1000 * size_of(batch) / each) for name, each in ms.items()},
        "peak": peaks,
        "left out": why,
    }
    return judged(figures, batch, device, arithmetics)


def contender(who, batch, precision):
    """A function that does a step."""
    if who == "ours":
        config = config_of(batch=batch, precision=precision)
        model, optimizer = alone(config)
        set_tf32(True)  # whatever the config has said
        return Ours(model, optimizer, batch_of(config), precision)
    network = load_config(f"configs/{'quick' if DRY else 'caffe'}.yaml").model
    treated = who != "port"
    model = torchvisions(network) if who == "torchvision" else Port(network)
    shape = (3, 224, 224) if who == "torchvision" else network.input
    images = 60 * torch.randn(batch, *shape, device=DEVICE)
    labels = torch.randint(10 if DRY else 1000, (batch,), device=DEVICE)
    model = model.to(DEVICE)
    if treated:
        model, images = (t.to(memory_format=torch.channels_last) for t in (model, images))
    optimizer = usual_sgd(model, fused=treated or None)
    return partial(usual_step, model.train(), optimizer, images, labels, precision)


class Ours:
    """Our step, with seeds of dropout as in training; or, given one, its graph."""

    def __init__(self, model, optimizer, batch, precision):
        self.model, self.optimizer, self.batch, self.precision = model, optimizer, batch, precision
        self.update, self.done = partial(train_step, model, optimizer, how=How(precision)), 0

    def __call__(self):
        self.model.seed_dropout(0, 0, self.done)
        self.done += 1
        return self.update(*self.batch)


def as_graph(step):
    """The step as a CUDA graph, ours as training has it."""
    if not isinstance(step, Ours):
        return graphed(step)
    ours = Ours(step.model, step.optimizer, step.batch, step.precision)
    ours.update = GraphedStep(ours.model, ours.optimizer, How(ours.precision))
    for _ in range(4):  # it is recorded
        ours()
    return ours


def reset_peak():
    if not DRY:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak():
    """Bytes, of all that is there so far."""
    return None if DRY else torch.cuda.max_memory_allocated()
