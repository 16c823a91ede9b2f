"""A pack under load: kills while it is made, memory and speed while it is trained on.

    python -m bench.data.pack DIR [--kills 20] [--rounds 8]

DIR has photographs in train/ and val/. In turn:

- launch/pack.py is killed at random moments of its work, all its processes at once by SIGKILL, and started
  again; what it leaves is compared, to the byte, with what it leaves undisturbed. Half of the packs are raw,
  half are JPEG.
- An epoch of batches is read from a raw pack of 100 GB (zeros, which take no room on the disk): resident
  memory of the process.
- Steps of configs/alexnet.yaml, batch 32, on batches from the pack, and on one that stays: the two take
  turns, four steps each.

Writes bench/results/pack-cpu.json (or -gpu.json).
"""

import argparse
import contextlib
import filecmp
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import zlib
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.pack import layout
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.faults import files
from alexnet2gpu.memory.predict import parts_of
from alexnet2gpu.model.step import How, train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.machine import keep_freed_memory
from alexnet2gpu.ranks.modes import Grid
from bench.results import launch, write
from bench.turns import clocked, take_turns

TURN = 4  # steps
SPARSE = 508_630  # images of 196,608 bytes: 100 GB
CPU = torch.device("cpu")


def packer(folder, target, store):
    """launch/pack.py at work, in a group of processes of its own."""
    command = launch("pack", "--data", folder, "--out", target, "--store", store)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **silent)


def same(one, other):
    """Whether two folders hold the same files, to the byte."""
    names = sorted(os.listdir(one))
    alike, *_ = filecmp.cmpfiles(one, other, names, shallow=False)
    return names == alike == sorted(os.listdir(other))


def kills(folder, count):
    """Of each kill: the store, the second it came, photographs noted by then, and whether the pack was the
    same in the end."""
    draw, rows = random.Random(0), []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        place, undisturbed, seconds = Path(place), {}, {}
        for store in ("raw", "jpeg"):
            start = time.monotonic()
            undisturbed[store] = place / store
            assert packer(folder, undisturbed[store], store).wait() == 0
            seconds[store] = time.monotonic() - start
        while sum(row["killed"] for row in rows) < count:  # some come when all is done
            store, target = ("raw", "jpeg")[len(rows) % 2], place / f"killed-{len(rows)}"
            moment = draw.uniform(0, seconds[store])
            process = packer(folder, target, store)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            killed = process.wait() != 0
            noted = taken(target.with_name(f"{target.name}.partial"))
            resumed = packer(folder, target, store).wait() == 0
            row = {"store": store, "killed": killed, "at second": round(moment, 2), "noted": noted}
            rows.append(row | {"same": resumed and same(target, undisturbed[store])})
            shutil.rmtree(target)
            print(rows[-1], flush=True)
    alike = f"{sum(row['same'] for row in rows)} of {len(rows)} packs the same to the byte"
    print(f"killed at {count} random moments, in the end {alike}")
    return {"undisturbed, seconds": seconds, "kills": rows}


def taken(partial):
    """How many photographs the journals and finished parts of an unfinished pack account for."""
    total = 0
    for part in layout.PARTS:
        with contextlib.suppress(OSError), np.load(partial / f"{part}.journal.npz") as journal:
            total += json.loads(str(journal["progress"]))["taken"]
        with contextlib.suppress(OSError, ValueError):
            total += json.loads((partial / f"{part}.json").read_text())["shape"][0]
    return total


def memory(folder):
    """Resident MB of this process, every 200 batches of an epoch of a sparse pack."""
    still = ["data.mean=none", "data.colour=0", "optim.schedule=[{epoch: 1, weights: 0, biases: 0}]"]
    config = load_config("configs/alexnet.yaml", still)
    source, resident = layout.pack_of(folder, "raw", 256), []
    with tempfile.TemporaryDirectory(dir=folder) as sparse:
        sparse = Path(sparse)
        for part in layout.PARTS:
            sidecar = asdict(layout.Part(source, part).read_sidecar())
            (sparse / f"{part}.u8").touch()
            os.truncate(sparse / f"{part}.u8", SPARSE * 196_608)
            sums = np.full(SPARSE, zlib.crc32(bytes(196_608)), np.uint32)
            sidecar |= {"shape": [SPARSE, 256, 256, 3], "mean": None, "covariance": None}
            for kind, content in {"sums.u32": sums.tobytes(), "labels.i64": bytes(8 * SPARSE)}.items():
                (file := sparse / f"{part}.{kind}").write_bytes(content)
                sidecar["checksums"][file.name] = files.checksum_of(file)
            (sparse / f"{part}.json").write_bytes(files.seal(sidecar))
        images, _ = layout.read_pack(sparse)
        batches = TrainBatches(images, config, Preparation(images, config, CPU))
        for number, _ in enumerate(batches.epoch(1)):
            if number % 200 == 20:
                status = Path("/proc/self/status").read_text()
                resident.append(int(status.split("VmRSS:")[1].split()[0]) // 1000)
    print(
        f"{batches.steps} batches of 128 from 100 GB: resident memory {resident[0]} MB at the start, "
        f"{min(resident)} to {max(resident)} MB later, {resident[-1]} MB at the end"
    )
    return resident


def training(folder, rounds):
    """Images a second of steps on batches from the pack, and on one that stays."""
    config = load_config("configs/alexnet.yaml", [f"data.dir={json.dumps(str(folder))}", "train.batch=32"])
    images, _ = load_images(config.data, config.model)
    keep_freed_memory()  # as launch/train.py does
    with Ranks(Grid(towers=range(config.model.towers))) as ranks:
        model, _, optimizer = parts_of("single", config, ranks)
        prepare = Preparation(images, config, ranks.device)
        batches = iter(TrainBatches(images, config, prepare).epoch(1))
        staying = itertools.repeat(next(batches))

        def turn(source):
            def work():
                for x, labels in itertools.islice(source, TURN):
                    sums = train_step(model, optimizer, x, labels, How(config.train.precision))
                sums.tolist()  # waits for the GPU

            return TURN * config.train.batch / clocked(work)()

        sources = {"from the pack": batches, "one batch that stays": staying}
        speeds = take_turns({name: partial(turn, s) for name, s in sources.items()}, rounds)
    pairs = [ours / theirs for ours, theirs in zip(*speeds.values())]
    ratio, spread = statistics.median(pairs), f"{min(pairs):.3f} to {max(pairs):.3f}, {rounds} pairs"
    print(f"steps from the pack / steps on one batch that stays: {ratio:.3f} ({spread})")
    return {"images_per_second": speeds, "ratio": ratio}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photographs", type=Path, metavar="DIR")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    folder = args.photographs.resolve()
    found = {"training": training(folder, args.rounds)}  # makes the pack if there is none
    found["resident MB"] = memory(folder)
    write("pack", **found, **kills(folder, args.kills))


if __name__ == "__main__":
    main()
