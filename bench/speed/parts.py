"""Parts of a step by themselves, ours beside torch's, in turns."""

import statistics
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.model.device import gpus
from alexnet2gpu.model.norm import layer
from alexnet2gpu.model.norm.layer import ResponseNorm
from alexnet2gpu.ranks.machine import keep_freed_memory
from bench.turns import clocked, take_turns

DEVICE = torch.device("cuda" if gpus() else "cpu")
LAYERS = {"norm1": (48, 55), "norm2": (128, 27)}  # maps and side, of one of two towers
RULE = NormRule(True, 5, 1e-4 / 5, 0.75, 2.0)
torchs = partial(F.local_response_norm, size=5, alpha=1e-4, beta=0.75, k=2.0)


def turns(contenders, rounds):
    """Name -> median seconds, each having done its work `rounds` times, in turns."""
    clocks = {name: clocked(work, DEVICE.type == "cuda") for name, work in contenders.items()}
    return {name: statistics.median(seconds) for name, seconds in take_turns(clocks, rounds).items()}


def norms(rounds, batch=128):
    """Both normalisations across maps, both towers, forward and backward, float32."""
    keep_freed_memory()
    norm, results = ResponseNorm(RULE), {}
    for name, (maps, side) in LAYERS.items():
        x = 60 * torch.randn(batch, maps, side, side, device=DEVICE)
        g = torch.randn_like(x)
        last, g_last = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
        exact, few = both(torchs, x[:4].double(), g[:4].double()), (last[:4], g_last[:4])
        error, plain = error_of(both(norm, *few), exact), error_of(without(norm, *few), exact)
        contenders = {
            "ours": lambda: [both(norm, last, g_last) for _ in "01"],
            "ours, no compiler": lambda: [without(norm, last, g_last) for _ in "01"],
            "F.local_response_norm": lambda: [both(torchs, x, g) for _ in "01"],
        }
        found = turns(contenders, rounds)
        results[name] = {"seconds": found, "error": error, "error, no compiler": plain}
    totals = {name: sum(each["seconds"][name] for each in results.values()) for name in found}
    return {**results, "totals": totals}


def both(norm, x, g):
    """y and the gradient of x."""
    x = x.detach().requires_grad_()
    y = norm(x)
    return y, torch.autograd.grad(y, x, g)[0]


@contextmanager
def no_kernel():
    """Normalisation by torch's operations, as where there is no compiler."""
    has_kernels, layer.has_kernels = layer.has_kernels, lambda *of: False
    try:
        yield
    finally:
        layer.has_kernels = has_kernels


@no_kernel()
def without(norm, x, g):
    """The same without a kernel."""
    return both(norm, x, g)


def error_of(found, exact):
    """Of y and the gradient, relative to the largest value."""
    far = [(ours - theirs).abs().max() / theirs.abs().max() for ours, theirs in zip(found, exact)]
    return max(far).item()


class Clothes(Dataset):
    """As torchvision's FashionMNIST with ToTensor and Normalize: a PIL image at a time."""

    def __init__(self, pixels, labels):
        self.pixels, self.labels = pixels, labels
        normal = transforms.Normalize((0.2860,), (0.3530,))
        steps = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), normal]
        self.transform = transforms.Compose(steps)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def images(rounds, count=60000, batch=64):
    """An epoch of images of 28x28 that lie in memory: mirrored, less the mean, in batches."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = draw.integers(0, 10, count)
    with TemporaryDirectory() as folder:
        for part in ("train", "test"):
            np.save(Path(folder, f"{part}_images.npy"), pixels[..., None])
            np.save(Path(folder, f"{part}_labels.npy"), labels)
        settings = ["data.name=arrays", f"data.dir={folder}", f"train.batch={batch}"]
        config = load_config("configs/quick.yaml", settings)
        train, _ = load_images(config.data, config.model)
        batches = TrainBatches(train, config, Preparation(train, config, DEVICE))
        contenders = {"ours": lambda: [None for _ in batches.epoch(1)]}
        for workers in (0, 2):
            clothes, options = Clothes(pixels, labels), {"shuffle": True, "drop_last": True}
            loader = DataLoader(clothes, batch, num_workers=workers, **options)
            contenders[f"DataLoader, {workers} workers"] = lambda loader=loader: [None for _ in loader]
        return turns(contenders, min(rounds, 3))
