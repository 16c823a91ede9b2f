"""Every mode side by side: speed and memory per rank, as launch/train.py reports them.

    python bench/modes.py [--config configs/quick.yaml] [--steps 24] [--rounds 3] [--set KEY=VALUE]

Modes take turns, `--rounds` times. Prints a table and writes bench/results/NAME-*.json: device,
versions, commit, command, images a second of each round (median of log lines after the first),
memory by category of each rank. Needs four processes; on one GPU they share it through gloo.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from pages import table

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from alexnet2gpu.memory.report import MIB  # noqa: E402

RESULTS = REPOSITORY / "bench" / "results"
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
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*start, str(REPOSITORY / "launch" / "train.py"), *flags, *options]
        done = subprocess.run([*command, "--out", f"{folder}/run"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{mode}: {' '.join(command)} failed:\n{done.stderr}")
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
        memory = json.loads(Path(folder, "run", "memory.json").read_text())
        return [json.loads(line) for line in lines], memory["ranks"]


def origin():
    """Where results come from: device, versions, commit, command."""
    git = ["git", "-C", str(REPOSITORY)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    compare = [*git, "diff", "--quiet", "HEAD", "--", ".", ":!bench/results", ":!docs"]
    changed = subprocess.run(compare, capture_output=True)
    words = [f"bench/{Path(sys.argv[0]).name}", *map(_word, sys.argv[1:])]
    return {
        "device": device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": (commit.stdout.strip() or "unknown") + "-changed" * bool(changed.returncode),
        "command": " ".join(["python", *words]),
    }


def _word(argument):
    """An argument as a command may show it: a directory of this machine is DIR."""
    return "DIR" if Path(argument).is_absolute() and Path(argument).is_dir() else argument


def write(name, **results):
    """Write bench/results/NAME-cpu.json or -gpu.json, with where the results come from."""
    file = results_file(name, torch.cuda.is_available())
    file.write_text(json.dumps({**origin(), **results}, indent=1) + "\n")


def results_file(name, on_gpu):
    """bench/results/NAME-cpu.json or -gpu.json."""
    return RESULTS / f"{name}-{'gpu' if on_gpu else 'cpu'}.json"


def device_name():
    """The GPU, or the processor."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        if cpuinfo.exists()
        else [platform.processor()]
    )
    return f"{names[0]}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/quick.yaml")
    parser.add_argument("--steps", type=int, default=24, help="at least 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides"
    )
    parser.add_argument("--name", help="of the file in bench/results; default: the config's")
    args = parser.parse_args()
    if args.steps < 4:
        parser.error("--steps: at least 4, for as many lines of the log")
    options = [
        "--config",
        args.config,
        "--set",
        f"train.max_steps={args.steps}",
        "--set",
        f"train.log_every={args.steps // 4}",
    ]
    options += [part for override in args.overrides for part in ("--set", override)]

    speeds, memory = {mode: [] for mode in MODES}, {}
    for _ in range(args.rounds):
        for mode in MODES:
            lines, memory[mode] = run(mode, options)
            logged = [line["images_per_second"] for line in lines if "loss" in line]
            speeds[mode].append(statistics.median(logged[1:]))

    head = ["mode", "images/s", "spread", "weights, MiB a rank", "saved activations", "peak"]
    lines = []
    for mode, ranks in memory.items():
        mib = [
            "/".join(sorted({f"{rank['measured'][key] / MIB:.1f}" for rank in ranks}))
            for key in ("weights", "saved_activations", "peak")
        ]
        spread = f"{min(speeds[mode]):.0f}-{max(speeds[mode]):.0f}"
        lines.append([mode, f"{statistics.median(speeds[mode]):.0f}", spread, *mib])
    print(table(head, lines))
    write(args.name or Path(args.config).stem, images_per_second=speeds, memory=memory)


if __name__ == "__main__":
    main()
