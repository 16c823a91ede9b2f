"""One device, split, DDP and grid side by side: speed and memory per rank, as launch/train.py reports them.

    python -m bench.modes runs [--config configs/quick.yaml] [--steps 24] [--rounds 3] [--set KEY=VALUE]

Modes take turns, `--rounds` times. Prints a table and writes bench/results/NAME-*.json: device, versions,
commit, command, images a second of each round (median of log lines after the first), memory by category of
each rank. Needs four processes; on one GPU they share it through gloo.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from alexnet2gpu.memory.report import MIB
from alexnet2gpu.runs.metrics import read_metrics
from bench.results import launch, read_json, sets, table, write
from bench.turns import take_turns

NO_DROPOUT = ["model.stages.2.drop6.p=0", "model.stages.3.drop7.p=0"]
MODES = {
    "one device": (1, []),
    "split, 2 ranks": (2, ["--split-model"]),
    "DDP, 2 ranks": (2, ["--ddp"]),
    "grid, 4 ranks": (4, ["--split-model", "--ddp"]),
}


def run(mode, options):
    """One run of a mode: the lines of its metrics.jsonl, and the ranks of its memory.json."""
    ranks, flags = MODES[mode]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        command = launch("train", *flags, *options, "--out", out, ranks=ranks)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{mode}: {' '.join(command)} failed:\n{done.stderr}")
        return list(read_metrics(out / "metrics.jsonl")), read_json(out / "memory.json")["ranks"]


def main(words):
    parser = argparse.ArgumentParser(prog="bench.modes runs", description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/quick.yaml")
    parser.add_argument("--steps", type=int, default=24, help="at least 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", help="of the file in bench/results; default: the config's")
    args = parser.parse_args(words)
    if args.steps < 4:
        parser.error("--steps: at least 4, for as many lines of the log")
    short = [f"train.max_steps={args.steps}", f"train.log_every={args.steps // 4}"]
    options = ["--config", args.config, *sets([*short, *args.set])]
    found = take_turns({mode: partial(run, mode, options) for mode in MODES}, args.rounds, warm_up=0)

    speeds, memory, lines = {}, {}, []
    for mode, rounds in found.items():
        logged = [[line["images_per_second"] for line in log if "loss" in line] for log, _ in rounds]
        speeds[mode] = [statistics.median(round_[1:]) for round_ in logged]
        _, memory[mode] = rounds[-1]
        ranks = [rank["measured"] for rank in memory[mode]]
        kinds = ("weights", "saved_activations", "peak")
        mib = ["/".join(sorted({f"{rank[kind] / MIB:.1f}" for rank in ranks})) for kind in kinds]
        spread = f"{min(speeds[mode]):.0f}-{max(speeds[mode]):.0f}"
        lines.append([mode, f"{statistics.median(speeds[mode]):.0f}", spread, *mib])
    head = ["mode", "images/s", "spread", "weights, MiB a rank", "saved activations", "peak"]
    print(table(head, lines))
    write(args.name or Path(args.config).stem, images_per_second=speeds, memory=memory)
