"""The recipe of 2012 on photographs: the tables and figures of docs/fidelity.md, anew.

    python -m bench.fidelity DIR [--runs RUNS] [--config configs/caltech.yaml] [--steps 350]

DIR has Caltech-101 in train/ and val/ (or other photographs). In turn:

- launch/diagnose.py on alexnet.yaml, caffe.yaml, paper.yaml and unit_variance.yaml, four seeds;
- the first steps of the same four at full size, batch 32, one seed;
- --config to the end, on one device and split over two ranks, one seed; one view and ten.

Figures and figures' numbers go to docs/results/CONFIG, and each table to its mark in the text, if there is
one. Runs that have been brought to their end in RUNS are not repeated. Two CPU cores take two hours; on a GPU
take --config configs/caltech_full.yaml, which is as wide as alexnet.yaml.
"""

import argparse
import itertools
import re
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from alexnet2gpu.figures import curves
from bench.results import REPOSITORY, device_name, launch, origin, read_json, rewrite, sets, write_json

PAGE = REPOSITORY / "docs" / "fidelity.md"
RESULTS = REPOSITORY / "docs" / "results"
OUTPUTS = "model.stages.4.fc8.out=1000"  # as for ImageNet, though the photographs are of fewer classes
RECIPES = ("alexnet", "caffe", "paper", "unit_variance")
SEEDS = 4


def program(name, *arguments, ranks=1):
    """What a program of launch/ prints; its progress goes to this one's stderr. Ends this program if it
    fails, but for diagnose.py's status 1, a warning."""
    command = launch(name, *arguments, ranks=ranks)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode > (name == "diagnose"):
        sys.exit(f"failed: {' '.join(command)}")
    return done.stdout


def table(head, rows):
    """The lines of a table in the style of this page: `head` is its first, then cells by the row's name."""
    rule = "|---" * (head.count("|") - 1) + "|"
    return [head, rule, *(f"| {' | '.join([name, *cells])} |" for name, cells in rows.items())]


def diagnosis(folder):
    """The table of what each recipe lets through: medians over the seeds."""
    signals, losses, steps = defaultdict(list), defaultdict(list), defaultdict(list)
    for name in RECIPES:
        options = ["--config", f"configs/{name}.yaml", "--data", folder, "--seeds", SEEDS]
        said = program("diagnose", *options, "--set", "train.batch=128", "--set", OUTPUTS)
        figures = defaultdict(list)  # of each layer
        for layer, *row in re.findall(r"^(\w+) +([\d.]+) +([\d.]+)% +([\d.e+-]+)$", said, re.MULTILINE):
            figures[layer].append(map(float, row))
        for layer, rows in figures.items():
            signal, dead, step = map(statistics.median, zip(*rows))
            signals[layer].append(f"{signal:.4f}, {dead:.0f} %")
            steps[layer].append(f"{step:.1e}")
        kinds = zip(*re.findall(r"start ([\d.]+), over all outputs evenly ([\d.]+)", said))
        for kind, found in zip(("loss at the start", "over all outputs evenly"), kinds):
            found = sorted(map(float, found))
            losses[kind].append(f"{found[0]:.2f} to {found[-1]:.2f}")
    names = " | ".join(f"`{name}`" for name in RECIPES)
    lines = table(f"| std / mean, dead units | {names} |", signals | losses)
    lines += ["", *table(f"| step / weights | {names} |", steps)]
    return "\n".join([*lines, "", f"Medians of {SEEDS} seeds; of the losses, least and largest."])


def trained(run, results, *arguments, ranks=1):
    """Train into the directory `run`, unless it has been done, or go on there. Its config and its metrics are
    copied to `results`."""
    done = run / "done"
    if not done.exists():
        resume = ["--resume"] if list(run.glob("checkpoints/step-*/state.json")) else []
        program("train", *arguments, "--out", run, *resume, ranks=ranks)
        done.touch()
    results.mkdir(parents=True, exist_ok=True)
    for name, kept in (("metrics.jsonl", ".jsonl"), ("config.yaml", ".yaml")):
        text = re.sub(r"dir: .*?, store", "dir: DIR, store", (run / name).read_text())
        (results / (run.name + kept)).write_text(text)
    return curves.read_history(run)


def start(folder, runs, results, steps):
    """The first steps of each recipe: a figure, and a table of the mean loss of some of them."""
    options = sets(["train.batch=32", f"train.max_steps={steps}", "train.log_every=10"])
    histories = {}
    for name in RECIPES:
        command = ["--config", f"configs/{name}.yaml", "--data", folder, "--set", OUTPUTS, *options]
        histories[f"{name}.yaml"] = trained(runs / f"start-{name}", results, *command)
    curves.draw(histories, results / "start.png")
    some = [steps * part // 5 // 10 * 10 for part in range(1, 6)]
    head = f"| | loss, mean of ten steps up to {' | '.join(map(str, some))} "
    head += "| top-1, top-5 error on validation images |"
    rows = {}
    for name, history in histories.items():
        losses = dict(zip(*history["loss"]))
        errors = ", ".join(f"{history[key][1][-1]:.1%}" for key in ("top1_error", "top5_error"))
        rows[f"`{name}`"] = [*(f"{losses[step]:.2f}" for step in some), errors]
    figure = f"![loss of {', '.join(histories)}](results/{results.name}/start.png)"
    command = f"launch/train.py --config configs/alexnet.yaml --data DIR {' '.join(options)}"
    return "\n".join([figure, "", *table(head, rows), "", f"`python {command}`, seed 0, {device_name()}."])


def small(folder, runs, results, config):
    """A training to the end, on one device and split: curves and errors of both, figures of the split one."""
    options = ["--config", config, "--data", folder]
    histories = {
        # one thread, as each rank has on two cores: sums over images are then in the same order
        "one device": trained(runs / "single", results, *options, "--set", "train.threads=1"),
        "split": trained(runs / "split", results, *options, "--split-model", ranks=2),
    }
    curves.draw(histories, results / "curves.png")
    found, rows, out = {}, defaultdict(list), runs / "evaluated.json"
    for (name, run), views in itertools.product({"one device": "single", "split": "split"}.items(), (1, 10)):
        program("evaluate", runs / run, "--views", views, "--data", folder, "--out", out)
        (network,) = read_json(out)["networks"]
        found[f"{name}; views: {views}"] = errors = network["alone"]
        rows[name] += [f"{errors[key]:.1%}" for key in ("top1_error", "top5_error")]
    drawn = runs / "figures"
    colours = program("figures", runs / "split", "--data", folder, "--out", drawn)
    for figure in ("filters", "predictions", "confusion", "neighbours"):
        shutil.copy(drawn / f"{figure}.png", results)
    shares = dict(re.findall(r"tower (\d): ([\d.]+%)", colours))
    one, other = (np.array(history["loss"][1]) for history in histories.values())
    equal, apart = int((one == other).sum()), float(np.abs(one - other).max())
    document = {**origin(), "config": config, "errors": found, "colour": shares}
    document["losses logged by one device and by the split"] = len(one)
    write_json(results / "results.json", document | {"equal": equal, "largest difference": apart})
    shown = ", ".join(f"{share} in tower {tower}" for tower, share in shares.items())
    text = (
        f"One device and the split: of the {len(one)} losses that both have logged, {equal} are equal to "
        f"the last bit; the largest difference is {apart:.1g}. Of the weights' energy in conv1, colour is "
        f"{shown}."
    )
    return "\n".join([*table("| | top-1, one view | top-5 | top-1, ten views | top-5 |", rows), "", text])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photographs", type=Path, metavar="DIR")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipe"), metavar="RUNS")
    parser.add_argument("--config", default="configs/caltech.yaml")
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--only", metavar="TABLE", help="diagnosis, start, or the name of the config")
    args = parser.parse_args()
    folder, runs = args.photographs.resolve(), args.runs.resolve()
    config = Path(args.config).stem
    parts = {
        "diagnosis": lambda: diagnosis(folder),
        "start": lambda: start(folder, runs, RESULTS / config, args.steps),
        config: lambda: small(folder, runs, RESULTS / config, args.config),
    }
    for name, part in parts.items():
        if args.only in (None, name):
            found = part()
            text = PAGE.read_text()
            if f"<!-- {name} -->" in text:
                PAGE.write_text(rewrite(text, {name: found}))
            print(f"{found}\n")


if __name__ == "__main__":
    main()
