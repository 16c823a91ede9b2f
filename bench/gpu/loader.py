"""The loader: batches on the GPU equal to those of the CPU; how fast it is."""

import time

import numpy as np
import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.ranks.machine import cores
from bench.gpu.cases import CPU, DEVICE, DRY
from bench.gpu.items import holds, noted

PRODUCT = 64 if DRY else 8192  # side of the matrices that keep a GPU busy
THREADS = (1, 2) if DRY else (1, 2, 4, 8, 16)


def images_of(count):
    """Noise, 256 x 256 in colour, each image of another brightness."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 128, (count, 256, 256, 3), dtype=np.uint8)
    pixels += draw.integers(0, 128, (count, 1, 1, 3), dtype=np.uint8)
    return Images(pixels, draw.integers(0, 1000, count), 1000)


def batches_of(images, batch, device, threads=2):
    config = load_config("configs/alexnet.yaml", [f"train.batch={batch}", f"data.threads={threads}"])
    return TrainBatches(images, config, Preparation(images, config, device), 0, 1)


def keep(batches):
    """Whether the images are on the GPU from now on, and not only their crops."""
    prepare = batches.prepare
    if hasattr(prepare, "keep"):
        prepare.keep(batches.images)
    return bool(getattr(prepare, "kept", None))


def same(kept=False):
    """An epoch on both devices, bit for bit, while the GPU multiplies matrices between any two batches: what
    does not wait for a copy, or is overwritten too early, is then seen. `kept`: all images on the GPU."""
    images = images_of(16 if DRY else 512)
    ours, exact = (batches_of(images, 8 if DRY else 64, device) for device in (DEVICE, CPU))
    if kept and not keep(ours):
        return noted({}, "images are not kept on this GPU")
    a = torch.randn(PRODUCT, PRODUCT, device=DEVICE)
    found, unlike, furthest = [], 0, 0.0
    for x, labels in ours.epoch(1):
        for _ in range(4):
            a = (a @ a).clamp_(-1, 1)
        found.append((x.clone(), labels.clone()))
    for (x, labels), (y, others) in zip(found, exact.epoch(1)):
        x, labels = x.to(CPU), labels.to(CPU)
        unlike += int((x != y).sum()) + int((labels != others).sum())
        furthest = max(furthest, (x - y).abs().max().item())
    figures = {"batches": len(found), "unlike": unlike, "largest difference": furthest}
    return holds({"equal bit for bit": len(found) == ours.steps and unlike == 0}, figures)


def speed():
    """Images a second by the number of threads, batches of 128, on the device."""
    count, batch = (24, 8) if DRY else (4096, 128)
    images, found = images_of(count), {}
    images.mean_image()
    for threads in (*THREADS, None):
        batches = batches_of(images, batch, DEVICE, threads or 1)
        if threads is None and not keep(batches):
            break
        batches = batches.epoch(1)
        next(batches)  # threads have started, memory is pinned
        start = time.perf_counter()
        seen = sum(len(labels) for _, labels in batches)
        if not DRY:
            torch.cuda.synchronize()
        found[f"{threads} threads" if threads else "kept on the GPU"] = round(
            seen / (time.perf_counter() - start)
        )
    return noted({"images_per_second": found, "cores": cores()})
