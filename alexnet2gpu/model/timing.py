"""Measures a profile (profile.py): whole steps of all towers on one device, with marks in them.

A mark says that a layer has ended, forward, or that its backward pass begins: a tensor's hook runs as the
node that gave it is about to. So what lies between two marks belongs to one layer, and layers add up to the
step. Batches take turns; of each layer the median of the rounds is kept.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import trace
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012, set_rates
from alexnet2gpu.model.precision import ready, weight_dtype
from alexnet2gpu.model.profile import Profile
from alexnet2gpu.model.step import How, train_step


class Marked:
    """A network's training step that says how long each of its parts took."""

    def __init__(self, config: Config, device: torch.device):
        self.config, self.device, self.marks = config, device, []
        names = [f"join{stage}" for stage in range(1, len(config.model.stages) + 1)]
        joins = [partial(self._join, name) for name in names]
        memory = replace(config.memory, regather=False, recompute=())
        model = AlexNet(config.model, config.train.seed, memory=memory, joins=joins)
        self.model = ready(model, config.train, device)
        for tower in model.towers.values():
            for row in trace(config.model):
                hook = partial(self._layer, row.name)
                tower.get_submodule(row.name).register_forward_hook(lambda _, x, y, hook=hook: hook(y))
        self.optimizer = SGD2012(
            self.model.named_parameters(), config.optim.momentum, config.optim.weight_decay
        )
        set_rates(self.optimizer, config.optim.schedule, 1)
        self.optimizer.register_step_pre_hook(lambda *_: self._mark("update", ""))

    def _layer(self, name, y):
        self._mark("forward", name)
        if y.requires_grad:  # not so before the first weights
            y.register_hook(lambda _: self._mark("backward", name))

    def _join(self, name, x):
        if self.config.model.towers > 1:  # else nothing was joined
            self._layer(name, x)
        return x

    def _mark(self, way, name):
        if self.device.type == "cuda":
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self.marks.append((way, name, now))

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> dict[tuple[str, str], float]:
        """One update. Returns: (way, layer) -> seconds, of all towers together."""
        train, found = self.config.train, defaultdict(float)
        self.model.seed_dropout(train.seed, 0, 0)
        self.marks = []
        self._mark("start", "")
        train_step(self.model, self.optimizer, images, labels, How(train.precision))
        self._mark("end", "")
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        for (way, name, begin), (next_way, next_name, end) in pairwise(self.marks):
            if next_way == "forward":
                part = next_way, next_name
            else:
                part = (way, name) if way in ("backward", "update") else ("forward", "loss")
            seconds = begin.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - begin
            found[part] += seconds
        return found


def measure(
    config: Config, device: torch.device, cores: int, batches: Sequence[int] = (8, 32, 128), rounds: int = 5
) -> Profile:
    """The profile of a config's network on this device, in float32 or as its `train.precision` says."""
    marked, found = Marked(config, device), {batch: [] for batch in batches}
    for number in range(rounds + 1):
        for batch in batches:
            parts = marked.step(*_batch(config, batch, device))
            if number:  # the first round warms up
                found[batch].append(parts)
    totals = {batch: [sum(parts.values()) for parts in rounds] for batch, rounds in found.items()}
    sides = [
        statistics.mean(side(times) / statistics.median(times) for times in totals.values())
        for side in (min, max)
    ]
    layers, towers = {}, config.model.towers
    for row in trace(config.model):
        shapes = {"reads": list(row.reads), "gives": list(row.gives)}
        layers[row.name] = shapes | _points(found, row.name, towers)
    for name in (*(f"join{stage + 1}" for stage in range(len(config.model.stages))), "loss"):
        layers[name] = _points(found, name, 1)
    updates = [parts["update", ""] for rounds in found.values() for parts in rounds]
    parameters = sum(weight.numel() for weight in marked.model.parameters())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {cores} cores"
    threads = torch.get_num_threads()
    source = f"measured by model/timing.py, torch {torch.__version__}, medians of {rounds} rounds"
    update = statistics.median(updates) / parameters
    cores = 0 if device.type == "cuda" else cores
    return Profile(name, source, threads, cores, config.train.precision, update, layers, tuple(sides))


def _points(found, name, towers):
    """Forward and backward [images, seconds of one tower], for each batch the median of its rounds."""
    return {
        way: [
            [batch, float(f"{statistics.median(parts[way, name] for parts in rounds) / towers:.4g}")]
            for batch, rounds in found.items()
        ]
        for way in ("forward", "backward")
    }


def _batch(config, count, device):
    """Noise as images (B, C, H, W), channels last as in training, and labels (B,)."""
    images = 60 * torch.randn(count, *config.model.input)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(config.model.last.out, (count,))
    return images.to(device, weight_dtype(config.train.precision)), labels.to(device)
