"""The recipe of 2012 on photographs: the tables and figures of docs/fidelity.md, anew.

    python -m bench.fidelity DIR [--runs RUNS] [--config configs/caltech.yaml] [--steps 350]

DIR has Caltech-101 in train/ and val/ (or other photographs). In turn:

- launch/diagnose.py on alexnet.yaml, caffe.yaml, paper.yaml and unit_variance.yaml, four seeds;
- the first steps of the same four at full size, batch 32, one seed;
- --config to the end, on one device and split over two ranks, one seed; one view and ten.

Figures and figures' numbers go to docs/results/CONFIG, and each table to its mark in the text, if
there is one. Runs that have been brought to their end in RUNS are not repeated. Two CPU cores take
two hours; on a GPU take --config configs/caltech_full.yaml, which is as wide as alexnet.yaml.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from alexnet2gpu.figures import curves
from bench.results import REPOSITORY, device_name, launch, origin, rewrite, sets

STUDY = REPOSITORY / "docs" / "fidelity.md"
RESULTS = REPOSITORY / "docs" / "results"
RECIPES = ("alexnet", "caffe", "paper", "unit_variance")
SEEDS = 4


def program(name, *arguments, ranks=1):
    """What a program of launch/ prints; its progress goes to this one's stderr. Ends this program
    if it fails, but for diagnose.py's status 1, a warning."""
    command = launch(name, *arguments, ranks=ranks)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode > (name == "diagnose"):
        sys.exit(f"failed: {' '.join(command)}")
    return done.stdout


def diagnosis(folder):
    """The table of what each recipe lets through: medians over the seeds."""
    columns = {}
    for name in RECIPES:
        said = program(
            "diagnose",
            "--config",
            f"configs/{name}.yaml",
            "--data",
            folder,
            "--seeds",
            SEEDS,
            "--set",
            "train.batch=128",
        )
        rows = re.findall(r"^(\w+) +([\d.]+) +([\d.]+)% +([\d.e+-]+)$", said, re.MULTILINE)
        losses = re.findall(r"start ([\d.]+), over all outputs evenly ([\d.]+)", said)
        layers = dict.fromkeys(layer for layer, *_ in rows)
        columns[name] = (
            [sorted(map(float, kind)) for kind in zip(*losses)],
            {
                layer: [
                    statistics.median(float(row[at]) for row in rows if row[0] == layer) for at in (1, 2, 3)
                ]
                for layer in layers
            },
        )
    names = " | ".join(f"`{name}`" for name in RECIPES)
    lines = [f"| std / mean, dead units | {names} |", "|---" * (1 + len(RECIPES)) + "|"]
    layers = list(columns[RECIPES[0]][1])
    for layer in layers:
        cells = [
            f"{signal:.4f}, {dead:.0f} %" for signal, dead, _ in (columns[name][1][layer] for name in RECIPES)
        ]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    for number, kind in enumerate(("loss at the start", "over all outputs evenly")):
        cells = [f"{found[number][0]:.2f} to {found[number][-1]:.2f}" for found, _ in columns.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += ["", f"| step / weights | {names} |", "|---" * (1 + len(RECIPES)) + "|"]
    for layer in layers:
        cells = [f"{columns[name][1][layer][2]:.1e}" for name in RECIPES]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Medians of {SEEDS} seeds; of the losses, least and largest."])


def trained(run, results, *arguments, ranks=1):
    """Train into the directory `run`, unless it has been done, or go on there. Its config and its
    metrics are copied to `results`."""
    done = run / "done"
    if not done.exists():
        resume = ["--resume"] if list(run.glob("checkpoints/step-*/state.json")) else []
        program("train", *arguments, "--out", run, *resume, ranks=ranks)
        done.touch()
    results.mkdir(parents=True, exist_ok=True)
    for name, kept in (("metrics.jsonl", ".jsonl"), ("config.yaml", ".yaml")):
        text = re.sub(r"dir: .*?, store", "dir: DIR, store", (run / name).read_text())
        (results / (run.name + kept)).write_text(text)
    return curves.history(run)


def start(folder, runs, results, steps):
    """The first steps of each recipe: a figure, and a table of the mean loss of some of them."""
    settings = ["train.batch=32", f"train.max_steps={steps}", "train.log_every=10"]
    options = sets(settings)
    histories = {
        f"{name}.yaml": trained(
            runs / f"start-{name}", results, "--config", f"configs/{name}.yaml", "--data", folder, *options
        )
        for name in RECIPES
    }
    curves.draw(histories, results / "start.png")
    some = [steps * part // 5 // 10 * 10 for part in range(1, 6)]
    lines = [
        f"![loss of {', '.join(histories)}](results/{results.name}/start.png)",
        "",
        f"| | loss, mean of ten steps up to {some[0]} | "
        + " | ".join(map(str, some[1:]))
        + " | top-1, top-5 error on validation images |",
        "|---" * 7 + "|",
    ]
    for name, history in histories.items():
        losses = dict(zip(*history["loss"]))
        errors = ", ".join(f"{history[key][1][-1]:.1%}" for key in ("top1_error", "top5_error"))
        cells = " | ".join(f"{losses[step]:.2f}" for step in some)
        lines.append(f"| `{name}` | {cells} | {errors} |")
    command = f"launch/train.py --config configs/alexnet.yaml --data DIR {' '.join(options)}"
    return "\n".join([*lines, "", f"`python {command}`, seed 0, {device_name()}."])


def small(folder, runs, results, config):
    """A training to the end, on one device and split: curves and errors of both, figures of the
    split one."""
    options = ["--config", config, "--data", folder]
    histories = {
        # one thread, as each rank has on two cores: sums over images are then in the same order
        "one device": trained(runs / "single", results, *options, "--set", "train.threads=1"),
        "split": trained(runs / "split", results, *options, "--split-model", ranks=2),
    }
    curves.draw(histories, results / "curves.png")
    lines = ["| | top-1, one view | top-5 | top-1, ten views | top-5 |", "|---|---|---|---|---|"]
    found, out = {}, runs / "evaluated.json"
    for name, run in (("one device", "single"), ("split", "split")):
        for views in (1, 10):
            program("evaluate", runs / run, "--views", views, "--data", folder, "--out", out)
            (network,) = json.loads(out.read_text())["networks"]
            found[f"{name}; views: {views}"] = network["alone"]
        errors = [
            found[f"{name}; views: {views}"][key] for views in (1, 10) for key in ("top1_error", "top5_error")
        ]
        lines.append(f"| {name} | {' | '.join(f'{error:.1%}' for error in errors)} |")
    drawn = runs / "figures"
    colours = program("figures", runs / "split", "--data", folder, "--out", drawn)
    for figure in ("filters", "predictions", "confusion", "neighbours"):
        shutil.copy(drawn / f"{figure}.png", results)
    shares = dict(re.findall(r"tower (\d): ([\d.]+%)", colours))
    one, other = (np.array(histories[name]["loss"][1]) for name in ("one device", "split"))
    equal, apart = int((one == other).sum()), float(np.abs(one - other).max())
    document = {
        **origin(),
        "config": config,
        "errors": found,
        "colour": shares,
        "losses logged by one device and by the split": len(one),
        "equal": equal,
        "largest difference": apart,
    }
    (results / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    return "\n".join(
        [
            *lines,
            "",
            f"One device and the split: of the {len(one)} losses that both have logged, "
            f"{equal} are equal to the last bit; the largest difference is {apart:.1g}. Of the "
            "weights' energy in conv1, colour is "
            + ", ".join(f"{share} in tower {tower}" for tower, share in shares.items())
            + ".",
        ]
    )


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
    tables = {
        "diagnosis": lambda: diagnosis(folder),
        "start": lambda: start(folder, runs, RESULTS / config, args.steps),
        config: lambda: small(folder, runs, RESULTS / config, args.config),
    }
    for name, table in tables.items():
        if args.only in (None, name):
            found = table()
            text = STUDY.read_text()
            if f"<!-- {name} -->" in text:
                STUDY.write_text(rewrite(text, {name: found}))
            print(f"{found}\n")


if __name__ == "__main__":
    main()
