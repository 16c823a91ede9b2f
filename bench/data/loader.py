"""The data pipeline beside what is usually written, all in turns in one run.

    python -m bench.data.loader DIR [--rounds 5] [--images 1024]

DIR has photographs in train/ and val/, and is packed when it is first used. Everybody crops 224 of 256 pixels
at random, mirrors half of the images, subtracts the mean image, moves the colour and divides by 1.1, and
gives float32 batches of 128. Prints images a second, medians of the rounds:

- ours from the raw pack and from the jpeg pack, everything on one core and one thread of torch;
- the same transform written per image in numpy, from the same pack, collated by a DataLoader with two workers
  (of two cores, if there are two);
- PIL decodes the photographs' files and torchvision transforms them, in a DataLoader without workers on one
  core, and with two workers;
- our crops alone (uint8, into a buffer that is used again) beside a copy of the rows that they lie in, each
  image's as one block, on one core.

Writes bench/results/loader-cpu.json (or -gpu.json).
"""

import argparse
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.crops import Corners, cut_crops
from alexnet2gpu.data.prepare import Preparation, colour_components
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.ranks.machine import keep_freed_memory
from bench.results import write
from bench.turns import clocked, take_turns

BATCH, CROP = 128, 224
CPU = torch.device("cpu")
CONTENDERS = (
    "ours, raw",
    "ours, jpeg",
    "per image, 2 workers",
    "PIL and torchvision",
    "PIL and torchvision, 2 workers",
    "crops, uint8",
    "rows, uint8",
)
RATIOS = (
    ("ours, raw", "per image, 2 workers"),
    ("ours, raw", "PIL and torchvision"),
    ("ours, raw", "PIL and torchvision, 2 workers"),
    ("crops, uint8", "rows, uint8"),
)


class PerImage(Dataset):
    """The transform as one writes it for one image, in numpy."""

    def __init__(self, images):
        self.pixels = images.pixels
        self.mean = images.mean_image()[16:240, 16:240]
        self.components = colour_components(images.colour_covariance(), "2012").astype(np.float32)

    def __len__(self):
        return self.pixels.shape[0]

    def __getitem__(self, i):
        top, left = np.random.randint(33, size=2)
        x = self.pixels[i, top : top + CROP, left : left + CROP]
        if np.random.rand() < 0.5:
            x = x[:, ::-1]
        x = x.astype(np.float32) - self.mean
        x += self.components @ np.random.normal(0, 0.1, 3).astype(np.float32)
        x /= 1.1
        return np.ascontiguousarray(x.transpose(2, 0, 1)), 0


def from_files(folder):
    """Photographs from their files, opened by PIL, through torchvision's transforms."""
    cuts = [transforms.Resize(256), transforms.CenterCrop(256), transforms.RandomCrop(CROP)]
    normal = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    rest = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), normal]
    return ImageFolder(folder / "train", transforms.Compose(cuts + rest))


def crops(images, whole):
    """Batches of crops, without end; or of the rows that they lie in, one block each, if they are `whole`."""
    draw, pixels = np.random.default_rng(0), images.pixels
    out = np.empty((BATCH, CROP, 256 if whole else CROP, 3), np.uint8)
    yield out  # nothing yet: these have nothing to start
    while True:
        top, left = draw.integers(33, size=(2, BATCH))
        corners = Corners(draw.integers(len(images), size=BATCH), top, left)
        if whole:
            for number, (i, y) in enumerate(zip(corners.indices.tolist(), top.tolist())):
                out[number] = pixels[i, y : y + CROP]
        else:
            cut_crops(images, corners, out)
        yield out


def config_of(folder, store):
    """alexnet.yaml on a folder of photographs, cropped by one thread."""
    overrides = [f"data.dir={json.dumps(str(folder))}", f"data.store={store}", "data.threads=1"]
    return load_config("configs/alexnet.yaml", overrides)


def epoch_of(name, folder):
    """A function that starts the batches of a contender."""
    config = config_of(folder, "jpeg" if name == "ours, jpeg" else "raw")
    images, _ = load_images(config.data, config.model)
    if name.startswith("ours"):
        keep_freed_memory()  # as launch/train.py does
        return partial(TrainBatches(images, config, Preparation(images, config, CPU)).epoch, 1)
    if name.endswith("uint8"):
        return partial(crops, images, name == "rows, uint8")
    workers = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "fork"}
    workers = workers if "workers" in name else {}
    photographs = PerImage(images) if name.startswith("per image") else from_files(folder)
    return partial(iter, DataLoader(photographs, BATCH, shuffle=True, drop_last=True, **workers))


def prepare(name, folder):
    """Make this process that of a contender."""
    global start
    cores = sorted(os.sched_getaffinity(0))[: 2 if "2 " in name else 1]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    start = epoch_of(name, folder)


def speed(count):
    """Images a second of this process, for so many."""
    batches = start()

    def work():
        for _ in range(count // BATCH):
            next(batches)

    next(batches)  # threads and workers have started
    return count / clocked(work)()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photographs", type=Path, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1024, help="in a round")
    args = parser.parse_args()
    folder = args.photographs.resolve()
    for store in ("raw", "jpeg"):
        config = config_of(folder, store)
        load_images(config.data, config.model)  # packs them
    count, context = args.images // BATCH * BATCH, multiprocessing.get_context("spawn")
    pools = {name: ProcessPoolExecutor(1, context, prepare, (name, folder)) for name in CONTENDERS}
    turns = {name: lambda pool=pool: pool.submit(speed, count).result() for name, pool in pools.items()}
    speeds = take_turns(turns, args.rounds)
    for pool in pools.values():
        pool.shutdown()
    median = {name: statistics.median(found) for name, found in speeds.items()}
    for name, found in speeds.items():
        print(f"{name:32} {median[name]:9,.1f} images/s ({min(found):,.1f} to {max(found):,.1f})")
    ratios = {f"{one} / {other}": median[one] / median[other] for one, other in RATIOS}
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    write("loader", images_per_second=speeds, ratios=ratios)


if __name__ == "__main__":
    main()
