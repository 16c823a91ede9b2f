"""How fast the loader is."""

import time

import numpy as np
import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.ranks.machine import cores
from bench.gpu.cases import DEVICE, DRY
from bench.gpu.items import noted

THREADS = (1, 2) if DRY else (1, 2, 4, 8, 16)


def images_of(count):
    """Noise, 256 x 256 in colour, each image of another brightness."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 128, (count, 256, 256, 3), dtype=np.uint8)
    pixels += draw.integers(0, 128, (count, 1, 1, 3), dtype=np.uint8)
    return Images(pixels, draw.integers(0, 1000, count), 1000)


def batches_of(images, batch, threads):
    config = load_config("configs/alexnet.yaml", [f"train.batch={batch}", f"data.threads={threads}"])
    return TrainBatches(images, config, Preparation(images, config, DEVICE))


def speed():
    """Images a second by the number of threads, batches of 128, on the device."""
    count, batch = (24, 8) if DRY else (4096, 128)
    images, found = images_of(count), {}
    images.mean_image()
    for threads in (*THREADS, None):
        batches = batches_of(images, batch, threads or 1)
        if threads is None:
            batches.prepare.keep(images)
            if not batches.prepare.kept:
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
