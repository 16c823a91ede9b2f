"""How fast is it? Ours in every mode beside what one could take instead, in one command.

    python bench/run.py [--quick] [--rounds 5] [--only PART ...]

Prints a table for each part and writes it into bench/results/speed-cpu.json, or -gpu.json, where
other parts stay. Half an hour on two cores; --quick is two rounds of fewer contenders, and writes
nothing.

    one device    a training step, batch 128, of alexnet.yaml; the ordinary port is of caffe.yaml,
                  which lacks a normalisation and so is quicker; torchvision has another network
    other ways    more of these
    one by one    from the port to ours, a step at a time, all with kept memory
    ranks         split, DDP, FSDP2 on two ranks, beside one process with as many cores
    batch 32      the same at a batch of 32, where DDP sends as much and computes less
    norms         normalisation of both layers, forward and backward, and its error
    images        Fashion-MNIST's size of images in memory, beside a DataLoader of torch
    curves        the loss over 200 steps of real photographs, fast ways beside the plain one

Contenders of a part are processes that are all there at once and take turns, round by round, each
with the same number of threads in all; a round after which the machine is busy, as told by a
matrix product, is done again, at most as many as there are. "kept" is the allocator of cpu.py,
"default" that of the user's shell. Ratios are of medians.
"""

import argparse
import json
import statistics

import torch
from curves import curves
from modes import RESULTS, origin
from parts import images, norms
from race import race

from alexnet2gpu.cpu import cores
from alexnet2gpu.network import trace

ON_GPU = torch.cuda.is_available()
CAFFE, FULL = "configs/caffe.yaml", "configs/alexnet.yaml"
# name: (what rank.py calls it, config, ranks, precision, allocator)
OURS = ("single", FULL, 1, "float32", "kept")
ONE = {
    "ours": OURS,
    "ordinary port": ("port", CAFFE, 1, "float32", "default"),
    "ordinary port, kept memory": ("port", CAFFE, 1, "float32", "kept"),
    "torchvision": ("torchvision", FULL, 1, "float32", "default"),
    "ours, bfloat16": ("single", FULL, 1, "bfloat16", "kept"),
}
MORE = {
    "ours": OURS,
    "ours, default memory": ("single", FULL, 1, "float32", "default"),
    "ours, no compiler": ("no compiler", FULL, 1, "float32", "kept"),
    "the same network as a port": ("port", FULL, 1, "float32", "default"),
    "two columns on a device": ("columns", FULL, 1, "float32", "default"),
    "torchvision, kept memory": ("torchvision", FULL, 1, "float32", "kept"),
    "ordinary port, bfloat16": ("port", CAFFE, 1, "bfloat16", "default"),
}
MORE |= {
    f"{name}, compiled": (f"{what}, compiled", config, ranks, precision, "kept")
    for name, (what, config, ranks, precision, memory) in (ONE | MORE).items()
    if (what, config) in (("port", CAFFE), ("torchvision", FULL)) and memory == "default"
}
ONE_BY_ONE = {
    name: (what, FULL, 1, "float32", "kept")
    for name, what in {
        "port": "port",
        "port, channels last": "port, last",
        "and fused SGD": "port, last, fused",
        "ours, no compiler": "no compiler",
        "ours": "single",
    }.items()
}
RANKS = {
    "one process": ("single", FULL, 1, "float32", "kept"),
    "split": ("split", FULL, 2, "float32", "kept"),
    "ours under DDP": ("ddp", FULL, 2, "float32", "kept"),
    "ours under FSDP2": ("fsdp", FULL, 2, "float32", "kept"),
}
RACES = {  # part: (contenders, the one that others are compared with)
    "one device": (ONE, "ordinary port"),
    "other ways": (MORE, "ours"),
    "one by one": (ONE_BY_ONE, "port"),
    "ranks": (RANKS, "ours under DDP"),
    "batch 32": (RANKS, "ours under DDP"),
}
OTHERS = {"norms": norms, "images": images, "curves": lambda rounds: curves()}
PARTS = [*RACES, *OTHERS]


def figures_of(runners):
    """Name -> figures."""
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
          "MB sent | most in memory, MiB |")  # fmt: skip
    print("|---" * 10 + "|")
    for name, f in found.items():
        parts = [f"{1000 * f[part]:.0f}" for part in ("forward", "backward", "update")]
        parts += [f"{1000 * f['exchange']:.0f}" if f["exchange"] else "-"]
        parts += [f"{f['sent'] / 1e6:.0f}" if f["sent"] else "-", f"{f['peak'] / 2**20:.0f}"]
        speed, spread = f["images_per_second"], f"{min(f['rounds']):.1f}-{max(f['rounds']):.1f}"
        print(f"| {name} | {speed:.1f} | {spread} | {speed / base:.2f} | "
              f"{' | '.join(parts)} |")  # fmt: skip
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
    parser.add_argument("--only", nargs="+", choices=PARTS)
    args = parser.parse_args()
    rounds = 2 if args.quick else args.rounds
    steps = 20 if ON_GPU else 2
    file = RESULTS / f"speed-{'gpu' if ON_GPU else 'cpu'}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    print(f"{cores()} threads in all")
    short = [part for part in PARTS if part not in ("other ways", "one by one")]
    for part in args.only or (short if args.quick else PARTS):
        if part in RACES:
            contenders, against = RACES[part]
            batch, turn = (32, 2 * steps) if part == "batch 32" else (args.batch, steps)
            found = figures_of(race(contenders, batch, rounds, turn))
            table(found, against)
        else:
            found = OTHERS[part](rounds)
        if not args.quick:
            results[part] = {**origin(), "threads": cores(), "found": found}
            file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
