"""How fast is it? Ours in every mode beside what one could take instead, in one command.

    python bench/run.py [--quick] [--rounds 5] [--only PART ...]

Prints a table for each part and writes bench/results/speed-cpu.json, or -gpu.json. 45 minutes on
two cores; --quick is two rounds of fewer contenders, and writes nothing.

    one device    a training step of alexnet.yaml, batch 128: ours and ports, float32 and bfloat16
    ranks         split, DDP, FSDP2 on two ranks, beside one process with as many cores
    batch 32      the same at a batch of 32, where DDP sends as much and computes less
    norms         normalisation of both layers, forward and backward, and its error
    images        Fashion-MNIST's size of images in memory, beside a DataLoader of torch
    curves        the loss over 200 steps of real photographs, fast ways beside the plain one

Contenders of a part are processes that are all there at once and take turns, round by round, each
with the same number of threads in all; a round during which the machine was busy, as told by a
matrix product before and after, is done again. "kept" is the allocator of cpu.py, "default" that
of the user's shell. Ratios are of medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist
from curves import curves
from modes import REPOSITORY, write
from parts import images, norms

from alexnet2gpu.config import load_config
from alexnet2gpu.cpu import cores
from alexnet2gpu.network import trace

ON_GPU = torch.cuda.is_available()
CAFFE, FULL = "configs/caffe.yaml", "configs/alexnet.yaml"
PARTS = ["one device", "ranks", "batch 32", "norms", "images", "curves"]
# name: (what rank.py calls it, config, ranks, precision, allocator)
ONE = {
    "ours": ("single", FULL, 1, "float32", "kept"),
    "ordinary port": ("port", CAFFE, 1, "float32", "default"),
    "ordinary port, kept memory": ("port", CAFFE, 1, "float32", "kept"),
    "torchvision": ("torchvision", FULL, 1, "float32", "default"),
    "ours, bfloat16": ("single", FULL, 1, "bfloat16", "kept"),
}
MORE = {
    "ours, default memory": ("single", FULL, 1, "float32", "default"),
    "ours, no compiler": ("no compiler", FULL, 1, "float32", "kept"),
    "the same network as a port": ("port", FULL, 1, "float32", "default"),
    "two columns on a device": ("columns", FULL, 1, "float32", "default"),
    "torchvision, kept memory": ("torchvision", FULL, 1, "float32", "kept"),
    "ordinary port, bfloat16": ("port", CAFFE, 1, "bfloat16", "default"),
}
if ON_GPU:
    MORE |= {
        f"{name}, compiled": (f"{what}, compiled", *rest)
        for name, (what, *rest) in (ONE | MORE).items()
        if what in ("port", "torchvision")
    }
RANKS = {
    "one process": ("single", FULL, 1, "float32", "kept"),
    "split": ("split", FULL, 2, "float32", "kept"),
    "DDP": ("ddp", FULL, 2, "float32", "kept"),
    "FSDP2": ("fsdp", FULL, 2, "float32", "kept"),
}


class Contender:
    """Processes of rank.py, as many as there are ranks, that share `threads`."""

    def __init__(self, name, what, config, ranks, precision, allocator, batch, threads):
        self.name, self.batch, self.network = name, batch, load_config(config).model
        command = [sys.executable, str(REPOSITORY / "bench" / "rank.py"), what, config, str(batch)]
        command += [str(max(1, threads // ranks)), precision, allocator]
        several = what in ("split", "ddp", "fsdp")
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.store = store  # as long as the ranks live
        self.ranks = [
            subprocess.Popen(
                command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, **(place(rank, ranks, store.port) if several else {})},
            )
            for rank in range(ranks)
        ]  # fmt: skip
        self.rounds = []
        self._hear()

    def turn(self, steps):
        """So many steps, by all ranks. Returns: what the first says."""
        for rank in self.ranks:
            rank.stdin.write(f"{steps}\n")
            rank.stdin.flush()
        return self._hear()

    def _hear(self):
        """The answers of all ranks; the first one's."""
        answers = []
        for rank in self.ranks:
            line = rank.stdout.readline()
            while line and not line.startswith("{"):
                line = rank.stdout.readline()
            if not line:
                sys.exit(f"{self.name}: a rank has ended")
            answers.append(json.loads(line))
        return answers[0]

    def close(self):
        for rank in self.ranks:
            rank.kill()
            rank.wait()


def place(rank, world, port):
    """A rank's environment, as torchrun makes it."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip


class Calm:
    """Whether a matrix product takes as long as it did at best."""

    def __init__(self):
        self.a, self.best = torch.randn(1024, 1024), float("inf")
        self.quiet()

    def quiet(self):
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            self.a @ self.a
            seconds.append(time.perf_counter() - start)
        found = statistics.median(seconds)
        self.best = min(self.best, found)
        return ON_GPU or found < 1.2 * self.best


def race(contenders, batch, rounds, steps):
    """Rounds in which all take turns. Returns: name -> figures."""
    threads, calm = cores(), Calm()
    runners = [Contender(name, *spec, batch, threads) for name, spec in contenders.items()]
    busy = 0
    try:
        while min(len(runner.rounds) for runner in runners) < rounds:
            said = [runner.turn(steps) for runner in runners]
            if not calm.quiet() and busy < rounds:
                busy += 1  # done again
                continue
            for runner, answer in zip(runners, said):
                runner.rounds.append(answer)
    finally:
        for runner in runners:
            runner.close()
    if busy:
        print(f"{busy} rounds were done again: the machine was busy")
    return {runner.name: figures(runner) for runner in runners}


def figures(runner):
    """Medians over rounds of the medians of steps; the spread of images a second."""
    steps = [list(zip(*answer["seconds"])) for answer in runner.rounds]
    medians = [[statistics.median(part) for part in parts] for parts in steps]  # per round
    whole, forward, backward, update, exchange = (
        statistics.median(part) for part in zip(*medians)
    )
    speeds = [runner.batch / each[0] for each in medians]
    found = {
        "images_per_second": runner.batch / whole, "rounds": speeds, "step": whole,
        "forward": forward, "backward": backward, "update": update, "exchange": exchange,
        "sent": runner.rounds[-1]["sent"], "peak": runner.rounds[-1]["peak"],
    }  # fmt: skip
    if rates := [answer["rates"] for answer in runner.rounds if answer["rates"]]:
        best = max(max(each.values()) for each in rates)
        found |= {"best_rate": best, "rates": rates[-1],
                  "model_rate": flops(runner.network) * runner.batch / whole}  # fmt: skip
    return found


def flops(network):
    """Of one image in training: forward, and as much again for gradients of weights and of
    inputs, but not of images."""
    rows = trace(network)
    each = [row.multiply_adds * network.towers for row in rows]
    return 2 * (3 * sum(each) - each[0])


def table(found, against):
    """Of one race; ratios to the speed of `against`."""
    base = found[against]["images_per_second"]
    print(f"\n| | images/s | spread | / {against} | forward, ms | backward | update | exchange | "
          "MB sent | peak, MiB |")  # fmt: skip
    print("|---" * 10 + "|")
    for name, f in found.items():
        parts = [f"{1000 * f[part]:.0f}" for part in ("forward", "backward", "update")]
        exchange = f"{1000 * f['exchange']:.0f}" if f["exchange"] else "-"
        sent = f"{f['sent'] / 1e6:.0f}" if f["sent"] else "-"
        speed, spread = f["images_per_second"], f"{min(f['rounds']):.1f}-{max(f['rounds']):.1f}"
        print(f"| {name} | {speed:.1f} | {spread} | {speed / base:.2f} | "
              f"{' | '.join(parts)} | {exchange} | {sent} | {f['peak'] / 2**20:.0f} |")  # fmt: skip
    for name, f in found.items():
        if "best_rate" in f:
            share, rate = f["model_rate"] / f["best_rate"], f["model_rate"] / 1e9
            print(f"{name}: {rate:.0f} GFLOP/s of the model, {share:.2f} of the best rate, "
                  f"{f['best_rate'] / 1e9:.0f}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--name", default="speed", help="of the file in bench/results")
    args = parser.parse_args()
    rounds = 2 if args.quick else args.rounds
    steps = 20 if ON_GPU else 2
    results = {"threads": cores()}
    print(f"{cores()} threads in all")
    for part in args.only:
        if part == "one device":
            results[part] = race(ONE | (MORE if not args.quick else {}), args.batch, rounds, steps)
            table(results[part], "ordinary port")
        elif part == "ranks":
            results[part] = race(RANKS, args.batch, rounds, steps)
            table(results[part], "one process")
        elif part == "batch 32":
            results[part] = race(RANKS, 32, rounds, 2 * steps)
            table(results[part], "one process")
        else:
            results[part] = {"norms": norms, "images": images, "curves": curves}[part](rounds)
    if not args.quick:
        write(args.name, **results)


if __name__ == "__main__":
    main()
