"""A GPU's arithmetic against float64 on the CPU: kernels, the update, a whole step, the step as a graph."""

import itertools
import math
from functools import partial

import torch
from torch import nn

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.model.device import set_tf32
from alexnet2gpu.model.graph import GraphedStep
from alexnet2gpu.model.layers import MaxPool2d
from alexnet2gpu.model.norm.layer import ResponseNorm
from alexnet2gpu.model.optim import SGD2012, set_rates
from alexnet2gpu.model.step import How, train_step
from bench.gpu.cases import CPU, DEVICE, DRY, NO_DROPOUT, alone, batch_of, config_of
from bench.gpu.items import at_most, largest, noted

ACROSS = NormRule(True, 5, 1e-4 / 5, 0.75, 2.0)
WITHIN = NormRule(False, 5, 1e-3 / 25, 0.75, 1.0)
LIMITS = {torch.float32: 5e-7, torch.bfloat16: 1e-2}  # of float64, relative to the largest value
GRAPH_LIMITS = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 3e-2}
CASES = {  # kind: (images, maps, side) of a tower of alexnet.yaml, and odd ones
    "across maps": [(8, 48, 55), (8, 128, 27), (3, 7, 9)],
    "within a map": [(8, 128, 27), (3, 7, 9)],
    "max-pooling": [(8, 48, 55), (8, 128, 27), (8, 128, 13), (3, 7, 9)],
}


def kernel(kind, dtype):
    """Forward and backward of a layer, channels last, against float64 on the CPU."""
    ours, plain = {
        "across maps": (ResponseNorm(ACROSS), ResponseNorm(ACROSS, keep_all=True)),
        "within a map": (ResponseNorm(WITHIN), ResponseNorm(WITHIN, keep_all=True)),
        "max-pooling": (MaxPool2d(3, 2), nn.MaxPool2d(3, 2)),
    }[kind]
    draw, errors = torch.Generator().manual_seed(0), {}
    for count, maps, side in CASES[kind]:
        shape = count, maps, side, side
        x = whole_numbers(shape, draw) if kind == "max-pooling" else 60 * torch.randn(shape, generator=draw)
        x = x.to(dtype)
        g = torch.randn(plain(x.double()).shape, generator=draw).to(dtype)
        found, exact = both(ours, x.to(DEVICE), g.to(DEVICE)), both(plain, x.double(), g.double())
        for name, a, b in zip(("forward", "backward"), found, exact):
            errors[f"{name} {count}x{maps}x{side}x{side}"] = far(a, b)
    return at_most(LIMITS[dtype], errors)


def whole_numbers(shape, draw):
    """Random ones, exact in bfloat16, of which no two in a window of 3 x 3 are the same: which of two equal
    maxima has the gradient is not the question."""
    place = torch.arange(shape[2])
    nine = 3 * (place[:, None] % 3) + place % 3  # different in each place of a window
    return (9 * torch.randint(-12, 12, shape, generator=draw) + nine).float()


def both(layer, x, g):
    """y and the gradient of x, channels last."""
    x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
    x.requires_grad_()
    y = layer(x)
    return y.detach(), torch.autograd.grad(y, x, g)[0]


def far(found, exact):
    """The largest difference, relative to the largest value."""
    found, exact = found.detach().to(CPU, torch.float64), exact.detach().to(CPU, torch.float64)
    return ((found - exact).abs().max() / exact.abs().max().clamp(min=1e-300)).item()


def update():
    """Two updates of random weights at a large rate and a small one, against the rule in float64."""
    draw, errors = torch.Generator().manual_seed(0), {}
    shapes = {"conv": (64, 24, 5, 5), "fc": (512, 300)}
    for (name, shape), rate in itertools.product(shapes.items(), (0.01, 1e-5)):
        start = torch.randn(shape, generator=draw)
        if len(shape) == 4:
            start = start.contiguous(memory_format=torch.channels_last)
        w = nn.Parameter(start.to(DEVICE))
        optimizer = SGD2012([(f"towers.0.{name}.weight", w)], 0.9, 0.0005)
        optimizer.param_groups[0]["lr"] = rate
        exact, v = start.double(), torch.zeros(shape, dtype=torch.float64)
        for _ in range(2):
            g = torch.randn(shape, generator=draw)
            w.grad = torch.empty_like(w).copy_(g)
            optimizer.halt_unless_finite(torch.zeros((), device=DEVICE))
            optimizer.step()
            v = 0.9 * v - 0.0005 * rate * exact - rate * g.double()
            exact = exact + v
        errors |= {f"{name}, rate {rate:g}, weights": far(w, exact)}
        errors |= {f"{name}, rate {rate:g}, velocities": far(optimizer.state[w]["velocity"], v)}
    return at_most(LIMITS[torch.float32], errors)


def step_of(precision, device, tf32=False):
    """A step without dropout: loss, and gradient and velocity of every parameter, in float64 on the CPU."""
    config = config_of(*NO_DROPOUT, batch=8, precision=precision)
    model, optimizer = alone(config, device)
    set_tf32(tf32)
    model.seed_dropout(0, 0, 0)
    loss = train_step(model, optimizer, *batch_of(config, device), How(precision))[0].item()
    named = [(name, p, optimizer.state[p]["velocity"]) for name, p in model.named_parameters()]
    return loss, {name: (p.grad.to(CPU).double(), v.to(CPU).double()) for name, p, v in named}


def apart(found, exact):
    """How far two of them are from each other: |a - b| / |b|, the largest."""
    (loss, tensors), (true, others) = found, exact
    norms = [
        ((a - b).norm() / b.norm()).item() for name in others for a, b in zip(tensors[name], others[name])
    ]
    return {"loss": abs(loss / true - 1), "gradients and velocities": largest(norms)}


def whole_step():
    """Of alexnet.yaml, 8 images; in float64 it is judged."""
    exact = step_of("float64", CPU)
    others = {
        "float32": apart(step_of("float32", DEVICE), exact),
        "TF32": apart(step_of("float32", DEVICE, tf32=True), exact),
        "bfloat16": apart(step_of("bfloat16", DEVICE, tf32=True), exact),
    }
    return at_most(1e-10, apart(step_of("float64", DEVICE), exact), others=others)


def graph(precision, steps=6):
    """The step as one CUDA graph beside the same steps one by one: losses, weights, in float64 velocities;
    dropout on, rates that change on the way. In float32 cuDNN adds in an order that varies, unless it is told
    not to: then two eager runs differ, too, by a tenth after six such steps."""
    if DRY:
        return noted({}, "needs a GPU")
    config = config_of(batch=16, precision=precision)
    images, labels = batch_of(config)
    losses, models = {}, {}
    for way in ("graph", "eager"):
        model, optimizer = models[way] = alone(config)
        do = GraphedStep(model, optimizer, How(precision)) if way == "graph" else None
        do = do or partial(train_step, model, optimizer, precision=precision)
        losses[way] = []
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            set_tf32(False)
            for number in range(steps):
                set_rates(optimizer, config.optim.schedule, 1 if number < steps - 2 else 25)
                model.seed_dropout(0, 0, number)
                losses[way].append(do(images.roll(number, 0), labels.roll(number, 0))[0].item())
    (ours, our_state), (theirs, their_state) = models.values()
    pairs = list(zip(ours.parameters(), theirs.parameters()))
    figures = {
        "loss": largest(abs(a / b - 1) for a, b in zip(*losses.values())),
        "weights": largest(far(a, b) for a, b in pairs),
    }
    if precision == "float64":
        velocities = ((our_state.state[a]["velocity"], their_state.state[b]["velocity"]) for a, b in pairs)
        figures["velocities"] = largest(far(a, b) for a, b in velocities)
    fresh = len(set(losses["eager"])) == steps and all(map(math.isfinite, losses["eager"]))
    found = at_most(GRAPH_LIMITS[precision], figures, losses=losses["eager"])
    return found if fresh else found | {"passed": False, "error": "losses repeat, or are no numbers"}
