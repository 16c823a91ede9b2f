"""Do fast ways learn what the plain one learns? Losses side by side.

quick.yaml on its photographs, 200 steps of 64, or caltech.yaml on a directory of them, 200 steps of 32; from
the same weights, without dropout, whose masks ports draw otherwise. The plain way is the port of ports.py:
groups, channels first, operations of torch, torch's SGD. In float64 two ways that are the same function stay
together. In float32 no two do that differ in any rounding, which is why the port is there a second time.
"""

import itertools
import json
from contextlib import nullcontext

import torch

from alexnet2gpu.config.keys import Memory
from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.model.device import gpus
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012, set_rates
from alexnet2gpu.model.precision import weight_dtype
from alexnet2gpu.model.step import train_step
from bench.modes.runs import NO_DROPOUT
from bench.speed.parts import no_kernel
from bench.speed.ports import Port, usual_sgd, usual_step

STEPS = 200
WAYS = ["ours", "ours, no compiler", "ours, all kept", "the port, weights a rounding off"]
KEPT = Memory(norm_input_only=False, pool_places_only=False, relu_in_place=False)
DEVICE = torch.device("cuda" if gpus() else "cpu")


def losses(precision, way, train, config):
    """Of `STEPS` steps, one way."""
    dtype = weight_dtype(precision)
    memory = KEPT if way == "ours, all kept" else Memory()
    model = AlexNet(config.model, 0, memory=memory).to(DEVICE, dtype)
    if way == "the port, weights a rounding off":
        with torch.no_grad():
            for weight in model.parameters():
                weight *= 1 + torch.finfo(dtype).eps
    if "port" in way:
        model = Port(config.model).to(DEVICE, dtype).take(model)
        optimizer, step = usual_sgd(model), usual_step
    else:
        optimizer = SGD2012(model.named_parameters(), 0.9, 0.0005)
        set_rates(optimizer, config.optim.schedule, 1)
        step = train_step
    batches = TrainBatches(train, config, Preparation(train, config, DEVICE))
    epochs = itertools.chain.from_iterable(map(batches.epoch, itertools.count(1)))
    found = []
    with no_kernel() if way == "ours, no compiler" else nullcontext():
        for x, labels in itertools.islice(epochs, STEPS):
            loss = step(model, optimizer, x, labels, precision)
            found.append(loss.flatten()[0].item())  # ours has the share of wrong answers after it
    return torch.tensor(found, dtype=torch.float64)


def curves(folder=None):
    """Largest differences in loss from the port, up to 20, 100 and 200 steps, on the photographs of a folder,
    in train/ and val/, or the bundled ones."""
    results = {}
    name, own = "configs/quick.yaml", []
    if folder is not None:
        name, own = "configs/caltech.yaml", [f"data.dir={json.dumps(folder)}", "train.batch=32"]
    for precision in ("float64", "float32", "bfloat16"):
        config = load_config(name, [f"train.precision={precision}", *NO_DROPOUT, *own])
        train, _ = load_images(config.data, config.model)
        if precision != "bfloat16":  # which is compared with float32
            plain = losses(precision, "port", train, config)
        for way in WAYS:
            apart = (losses(precision, way, train, config) - plain).abs()
            results[f"{precision}, {way}"] = [apart[:steps].max().item() for steps in (20, 100, STEPS)]
    return results
