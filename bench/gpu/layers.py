"""What a GPU could do, and what each layer makes of it."""

import torch

from alexnet2gpu.config.network import trace
from alexnet2gpu.model.device import set_tf32
from alexnet2gpu.model.precision import computing_in
from alexnet2gpu.model.step import How, train_step
from bench.gpu.cases import DEVICE, DRY, alone, batch_of, config_of, milliseconds, size_of
from bench.gpu.items import noted
from bench.speed.rank import graphed

SIDE = 256 if DRY else 8192
COPIED = 2**22 if DRY else 2**30  # bytes
LONGEST = 30  # kernels of a step that are listed


def copy_rate(size=COPIED):
    """Bytes a second, read and written, of a copy."""
    x = torch.zeros(size, dtype=torch.uint8, device=DEVICE)
    y = torch.empty_like(x)
    return 2 * size / (milliseconds(lambda: y.copy_(x)) / 1000)


def ceilings():
    """Of copies and of matrix products."""
    found = {"copy, GB/s": copy_rate() / 1e9}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("bfloat16", torch.bfloat16, True),
    ):
        set_tf32(tf32)
        a = torch.randn(SIDE, SIDE, device=DEVICE).to(dtype)
        found[f"{name}, TFLOP/s"] = 2 * SIDE**3 / milliseconds(lambda: a @ a) / 1e9
    return noted({name: float(f"{value:.4g}") for name, value in found.items()})


def profile(precision):
    """The kernels of a step at batch 128, not a graph, by the time that they take."""
    if DRY:
        return noted({}, "needs a GPU")
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    config = config_of(precision=precision)
    model, optimizer = alone(config)
    set_tf32(True)
    batch = batch_of(config)
    for number in range(3):
        model.seed_dropout(0, 0, number)
        train_step(model, optimizer, *batch, How(precision))
    torch.cuda.synchronize()
    with profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        train_step(model, optimizer, *batch, How(precision))
        torch.cuda.synchronize()
    on_gpu = [
        event
        for event in seen.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    kernels = {}
    for event in on_gpu:
        count, us = kernels.get(event.name, (0, 0.0))
        kernels[event.name] = count + 1, us + event.time_range.elapsed_us()
    longest = sorted(kernels.items(), key=lambda kernel: -kernel[1][1])
    lines = [[name[:160], count, round(us, 1)] for name, (count, us) in longest[:LONGEST]]
    total = sum(us for _, us in kernels.values()) / 1000
    return noted({"kernels": len(on_gpu), "ms": round(total, 3), "longest: name, calls, us": lines})


def layers(precision, batch):
    """Milliseconds of each layer of a tower, forward and backward as a graph, beside what its bytes
    take at the rate of a copy: x, y and weights once forward; x, weights and the gradients of all three
    once backward, that of images excepted."""
    config, rate, found = config_of(precision=precision), copy_rate(), {}
    model, _ = alone(config)
    set_tf32(True)
    tower = next(iter(model.towers.values())).train()
    wide = 2 if precision == "bfloat16" else 4
    for row in trace(config.model):
        layer, count = tower.get_submodule(row.name), size_of(batch)
        if hasattr(layer, "inplace"):
            layer.inplace = False  # x is a leaf here
        x = torch.randn(count, *row.reads, device=DEVICE)
        if len(row.reads) == 3:
            x = x.contiguous(memory_format=torch.channels_last)
        first = row.reads == config.model.input
        if precision == "bfloat16" and not first:
            x = x.bfloat16()  # as autocast hands it on
        reads, gives = x.numel(), count * int(torch.Size(row.gives).numel())
        floor = 4 * 3 * row.parameters + wide * (2 * gives + (2 if first else 3) * reads)
        if "Flatten" in type(layer).__name__:
            continue  # a view
        step = both_ways(layer, x.requires_grad_(not first), precision)
        ms = milliseconds(step if DRY else graphed(step))
        found[row.name] = {"ms": round(ms, 4), "floor, ms": round(1000 * floor / rate, 4)}
    return noted({"layers": found, "copy, GB/s": round(rate / 1e9, 1)})


def both_ways(layer, x, precision):
    """A function that does a layer forward and backward; gradients are made anew each time."""
    with computing_in(precision, DEVICE):
        g = torch.randn_like(layer(x).detach())
    wanted = [t for t in (x, *layer.parameters()) if t.requires_grad]

    def step():
        with computing_in(precision, DEVICE):
            y = layer(x)
        return torch.autograd.grad(y, wanted, g) if wanted else y

    return step
