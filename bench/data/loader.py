"""The data pipeline beside what is usually written, all in turns in one run.

    python -m bench.data.loader DIR [--rounds 5] [--images 1024]

DIR has photographs in train/ and val/, and is packed when it is first used. Everybody crops 224 of
256 pixels at random, mirrors half of the images, subtracts the mean image, moves the colour and
divides by 1.1, and gives float32 batches of 128. Prints images a second, medians of the rounds:

- ours from the raw pack and from the jpeg pack, everything on one core and one thread of torch;
- the same transform written per image in numpy, from the same pack, collated by a DataLoader with
  two workers (of two cores, if there are two);
- PIL decodes the photographs' files and torchvision transforms them, in a DataLoader without
  workers on one core, and with two workers;
- our crops alone (uint8, into a buffer that is used again) beside a copy of the rows that they lie
  in, each image's as one block, on one core.

Writes bench/results/loader-cpu.json (or -gpu.json).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.crops import Corners, cut
from alexnet2gpu.data.pack.photographs import Photographs, classes_of
from alexnet2gpu.data.prepare import Preparation, colour_components
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.ranks.machine import keep_freed_memory
from bench.results import write
from bench.turns import take_turns

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


class FromFiles(Dataset):
    """Photographs from their files, through torchvision's transforms."""

    def __init__(self, folder):
        from torchvision import transforms

        photographs = Photographs(folder / "train", classes_of(folder))
        self.files = [folder / "train" / name for name, _ in photographs]
        self.transform = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(256),
                transforms.RandomCrop(CROP),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        from PIL import Image

        return self.transform(Image.open(self.files[i]).convert("RGB")), 0


def ours(images, config, count):
    """Seconds for `count` images of a training epoch."""
    batches = iter(TrainBatches(images, config, Preparation(images, config, CPU), 0, 1).epoch(1))
    next(batches)  # threads have started
    start = time.perf_counter()
    for _ in range(count // BATCH):
        next(batches)
    return time.perf_counter() - start


def loaded(loader, count):
    """Seconds for `count` images of a DataLoader whose workers are running."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    for _ in range(count // BATCH):
        next(batches)
    return time.perf_counter() - start


def crops(images, whole, count):
    """Seconds for the crops of `count` images; or for the rows that they lie in, one block each,
    if they are `whole`."""
    draw = np.random.default_rng(0)
    pixels = images.pixels
    out = np.empty((BATCH, CROP, 256 if whole else CROP, 3), np.uint8)
    start = time.perf_counter()
    for _ in range(count // BATCH):
        top, left = draw.integers(33, size=(2, BATCH))
        corners = Corners(draw.integers(len(images), size=BATCH), top, left)
        if whole:
            for number, (i, y) in enumerate(zip(corners.indices.tolist(), top.tolist())):
                out[number] = pixels[i, y : y + CROP]
        else:
            cut(images, corners, out)
    return time.perf_counter() - start


def config_of(folder, store):
    """alexnet.yaml on a folder of photographs, cropped by one thread."""
    overrides = [f"data.dir={json.dumps(str(folder))}", f"data.store={store}", "data.threads=1"]
    return load_config("configs/alexnet.yaml", overrides)


def serve(name, folder, pipe):
    """A process of its own for a contender: for each number of images that comes, the speed."""
    cores = sorted(os.sched_getaffinity(0))[: 2 if "2 " in name else 1]
    config = config_of(folder, "jpeg" if name == "ours, jpeg" else "raw")
    images, _ = load_images(config.data, config.model)
    loader = partial(DataLoader, batch_size=BATCH, shuffle=True, drop_last=True)
    workers = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "fork"}
    workers = workers if "workers" in name else {}
    if name.startswith("ours"):
        keep_freed_memory()  # as launch/train.py does
        seconds = partial(ours, images, config)
    elif name.startswith("per image"):
        seconds = partial(loaded, loader(PerImage(images), **workers))
    elif name.startswith("PIL"):
        seconds = partial(loaded, loader(FromFiles(folder), **workers))
    else:
        seconds = partial(crops, images, name == "rows, uint8")
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    while True:
        count = pipe.recv()
        pipe.send(count / seconds(count))


def in_turns(folder, rounds, count):
    """Name -> speeds of the rounds, one contender at a time, after one round to warm up."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in CONTENDERS:
        pipes[name], theirs = context.Pipe()
        # not daemons, which may have no workers of their own
        context.Process(target=serve, args=(name, folder, theirs)).start()
        theirs.close()  # so that the end of a process that fails is seen

    def turn(pipe):
        pipe.send(count)
        return pipe.recv()

    speeds = take_turns({name: partial(turn, pipe) for name, pipe in pipes.items()}, rounds)
    for process in multiprocessing.active_children():
        process.terminate()
    return speeds


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
    report(in_turns(folder, args.rounds, args.images // BATCH * BATCH))


def report(speeds):
    """Print the medians and the ratios that count, and write all."""
    median = {name: statistics.median(found) for name, found in speeds.items()}
    for name, found in speeds.items():
        print(f"{name:32} {median[name]:9,.1f} images/s ({min(found):,.1f} to {max(found):,.1f})")
    ratios = {
        f"{one} / {other}": median[one] / median[other]
        for one, other in (
            ("ours, raw", "per image, 2 workers"),
            ("ours, raw", "PIL and torchvision"),
            ("ours, raw", "PIL and torchvision, 2 workers"),
            ("crops, uint8", "rows, uint8"),
        )
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    write("loader", images_per_second=speeds, ratios=ratios)


if __name__ == "__main__":
    main()
