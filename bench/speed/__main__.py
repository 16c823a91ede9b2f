"""Speed: ours in every mode beside what one could take instead, in one command.

    python -m bench.speed [--quick] [--rounds 5] [--batch N] [--data DIR] [--only PART ...]

Prints a table for each part and writes its figures into bench/results/speed-cpu.json, or -gpu.json, where
other parts stay. On the CPU, the tables of docs/speed.md are rewritten, too. Half an hour on two cores.
--quick is two rounds of fewer parts; it writes nothing, as do other numbers of rounds and images than the
usual ones.

    one device    a training step, batch 128, of alexnet.yaml; the ordinary port is of caffe.yaml, which
                  lacks a normalisation and so is quicker; torchvision has another network
    other ways    more of these
    compiled      torch.compile of ours, a stage at a time, and of whole ports
    one by one    from the port to ours, a step at a time, all with kept memory
    ranks         split, DDP, FSDP2 on two ranks, beside one process with as many cores
    batch 32      the same at a batch of 32, where DDP sends as much and computes less
    norms         normalisation of both layers, forward and backward, and its error
    images        Fashion-MNIST's size of images in memory, beside a DataLoader of torch
    curves        the loss over 200 steps of photographs of clothes, fast ways beside the plain one
    photographs   the same over those of DIR, which has train/ and val/, in colour, of 224x224

On a GPU there are also

    graphs        whole steps as CUDA graphs, float32 and bfloat16
    batch 1024    one device at a batch that keeps a GPU busy

Contenders of a part are processes that are all there at once and take turns, round by round, each with the
same number of threads in all; a round after which the machine is busy, as told by a matrix product, is done
again, at most as many as there are. "kept" is the allocator of ranks/machine.py, "default" that of the user's
shell. Ratios are of medians.
"""

import argparse
import statistics

from alexnet2gpu.config.network import trace
from alexnet2gpu.model.device import gpus
from alexnet2gpu.ranks.machine import cores
from bench.results import origin, read_json, redraw, results_file, write_json
from bench.speed.curves import curves
from bench.speed.parts import images, norms
from bench.speed.race import Spec, race
from bench.speed.tables import PAGE, tables

ON_GPU, ROUNDS = bool(gpus()), 5
CAFFE = "configs/caffe.yaml"
ONE = {
    "ours": Spec("single"),
    "ordinary port": Spec("port", CAFFE, allocator="default"),
    "ordinary port, kept memory": Spec("port", CAFFE),
    "torchvision": Spec("torchvision", allocator="default"),
    "ours, bfloat16": Spec("single", precision="bfloat16"),
}
MORE = {
    "ours": Spec("single"),
    "ours, default memory": Spec("single", allocator="default"),
    "the same network as a port": Spec("port", allocator="default"),
    "two columns on a device": Spec("columns", allocator="default"),
    "torchvision, kept memory": Spec("torchvision"),
    "ordinary port, bfloat16": Spec("port", CAFFE, precision="bfloat16", allocator="default"),
}
COMPILED = {
    "ours": Spec("single"),
    "ours, MKL": Spec("single, MKL"),  # as it is compiled
    "ours, compiled": Spec("single, compiled"),
    "ordinary port, compiled": Spec("port, compiled", CAFFE),
    "torchvision, compiled": Spec("torchvision, compiled"),
}
ONE_BY_ONE = {  # five, since ports that keep memory take 5 GiB each
    "port": Spec("port"),
    "channels last, fused SGD": Spec("port, last, fused"),
    "ours, no compiler, MKL": Spec("single, no compiler, MKL"),
    "ours, no compiler": Spec("single, no compiler"),
    "ours": Spec("single"),
}
RANKS = {
    "one process": Spec("single"),
    "split": Spec("split", ranks=2),
    "ours under DDP": Spec("ddp", ranks=2),
    "ours under FSDP2": Spec("fsdp", ranks=2),
}
GRAPHS = {
    f"{name}, {precision}": ONE[name]._replace(
        name=f"{ONE[name].name}, graph", precision=precision, allocator="default"
    )
    for precision in ("float32", "bfloat16")
    for name in ("ours", "ordinary port", "torchvision")
}
RACES = {  # part: (contenders, the one that others are compared with, batch)
    "one device": (ONE, "ordinary port", 128),
    "other ways": (MORE, "ours", 128),
    "compiled": (COMPILED, "ours", 128),
    "one by one": (ONE_BY_ONE, "port", 128),
    "ranks": (RANKS, "ours under DDP", 128),
    "batch 32": (RANKS, "ours under DDP", 32),
}
if ON_GPU:
    RACES["graphs"] = (GRAPHS, "ordinary port, float32", 128)
    RACES["batch 1024"] = (ONE, "ordinary port", 1024)
OTHERS = {  # part: its figures, from the number of rounds and the directory of photographs
    "norms": lambda rounds, data: norms(rounds),
    "images": lambda rounds, data: images(rounds),
    "curves": lambda rounds, data: curves(),
    "photographs": lambda rounds, data: curves(data),
}
LONG = {"other ways", "compiled", "one by one"}  # left out by --quick


def measured(part, rounds, batch, data):
    """What is to be known of a part, as it goes into the file of results."""
    if part not in RACES:
        return {**origin(), "threads": cores(), "found": OTHERS[part](rounds, data)}
    contenders, against, usual = RACES[part]
    batch = batch or usual
    steps = 20 if ON_GPU else max(2, 128 // batch)
    found = {name: figures(*f) for name, f in race(contenders, batch, rounds, steps).items()}
    return {**origin(), "threads": cores(), "batch": batch, "against": against, "found": found}


def figures(batch, network, said):
    """Medians over rounds of the medians of steps; the spread of images a second."""
    steps = [list(zip(*answer["seconds"])) for answer in said]
    medians = [[statistics.median(part) for part in parts] for parts in steps]  # per round
    names = ("step", "forward", "backward", "update", "exchange")
    seconds = dict(zip(names, (statistics.median(part) for part in zip(*medians))))
    speeds = [batch / whole for whole, *_ in medians]
    found = {"images_per_second": batch / seconds["step"], "rounds": speeds, **seconds}
    found |= {"sent": said[-1]["sent"], "peak": said[-1]["peak"]}
    if rates := [answer["rates"] for answer in said if answer["rates"]]:
        best = max(max(each.values()) for each in rates)
        model_rate = flops(network) * batch / seconds["step"]
        found |= {"best_rate": best, "rates": rates[-1], "model_rate": model_rate}
    return found


def flops(network):
    """Of one image in training: forward, and as much again for gradients of weights and of inputs, but not of
    images."""
    rows = trace(network)
    each = [row.multiply_adds * network.towers for row in rows]
    return 2 * (3 * sum(each) - each[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch", type=int, help="another than the part's")
    parser.add_argument("--data", metavar="DIR", help="photographs in train/ and val/")
    parser.add_argument("--only", nargs="+", choices=[*RACES, *OTHERS], metavar="PART")
    parser.add_argument("--redraw", action="store_true", help="only the tables of docs/speed.md")
    args = parser.parse_args()
    parts = [part for part in [*RACES, *OTHERS] if not (args.quick and part in LONG)]
    parts = args.only or [part for part in parts if args.data or part != "photographs"]
    if "photographs" in parts and not args.data:
        parser.error("--only photographs: needs --data DIR")
    writes = args.rounds == ROUNDS and not (args.quick or args.batch)
    on_gpu = ON_GPU and not args.redraw
    file = results_file("speed", on_gpu)
    results = read_json(file)
    print(f"{cores()} threads in all")
    for part in [] if args.redraw else parts:
        found = measured(part, 2 if args.quick else args.rounds, args.batch, args.data)
        if writes:
            results[part] = found
            write_json(file, results)
        print(f"\n{tables({part: found})[part]}", flush=True)
    if writes and not on_gpu:
        redraw(PAGE, tables(results, read_json(results_file("exchange", on_gpu))))


if __name__ == "__main__":
    main()
