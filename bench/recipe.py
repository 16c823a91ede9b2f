"""The recipe of 2012 on photographs: docs/fidelity.md's tables and docs/results/caltech, anew.

    python bench/recipe.py DIR [--runs RUNS] [--config configs/caltech.yaml] [--steps 350]

DIR has Caltech-101 in train/ and val/ (or other photographs). In turn:

- launch/diagnose.py on alexnet.yaml, paper.yaml and unit_variance.yaml, four seeds;
- the first steps of alexnet.yaml and paper.yaml at full size, batch 32, the same seed;
- --config to the end, on one device and split over two ranks, the same seed; one view and ten.

Runs that have been brought to their end in RUNS are not repeated. Two CPU cores take an hour and a
half; on a GPU take --config configs/caltech_full.yaml, which is as wide as alexnet.yaml.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from modes import REPOSITORY, device_name, origin

from alexnet2gpu import figures, look  # found, as modes.py has set the path

STUDY = REPOSITORY / "docs" / "fidelity.md"
RESULTS = REPOSITORY / "docs" / "results" / "caltech"
RECIPES = ("alexnet", "paper", "unit_variance")
SEEDS = 4


def program(name, *arguments, ranks=1):
    """What a program of launch/ prints; its progress goes to this one's stderr. Ends this program
    if it fails, but for diagnose.py's status 1, a warning."""
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [*start, str(REPOSITORY / "launch" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode > (name == "diagnose"):
        sys.exit(f"failed: {' '.join(command)}")
    return done.stdout


def diagnosis(folder):
    """The table of what each recipe lets through: medians over the seeds."""
    columns = {}
    for name in RECIPES:
        said = program("diagnose", "--config", f"configs/{name}.yaml", "--data", folder,
                       "--seeds", SEEDS)  # fmt: skip
        rows = re.findall(r"^(\w+) +([\d.]+) +([\d.]+)% +([\d.e+-]+)$", said, re.MULTILINE)
        losses = [float(loss) for loss in re.findall(r"loss at the start ([\d.]+)", said)]
        layers = dict.fromkeys(layer for layer, *_ in rows)
        columns[name] = losses, {
            layer: [statistics.median(float(row[at]) for row in rows if row[0] == layer)
                    for at in (1, 2, 3)]
            for layer in layers
        }  # fmt: skip
    first = columns[RECIPES[0]][1]
    heads = " | ".join(f"`{name}.yaml`: std / mean | dead | step / weights" for name in RECIPES)
    lines = [f"| layer | {heads} |", "|---" * (1 + 3 * len(RECIPES)) + "|"]
    for layer in first:
        cells = [
            f"{signal:.4f} | {dead:.0f} % | {step:.1e}"
            for signal, dead, step in (columns[name][1][layer] for name in RECIPES)
        ]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    losses = "".join(f"{min(found):.2f} to {max(found):.2f} | | | "
                        for found, _ in columns.values())  # fmt: skip
    lines.append(f"| loss at the start | {losses[:-1]}")
    return "\n".join([*lines, "", f"Medians of {SEEDS} seeds; of the loss, least and largest."])


def trained(run, *arguments, ranks=1):
    """Train into the directory `run`, unless it has been done, or go on there."""
    done = run / "done"
    if not done.exists():
        resume = ["--resume"] if list(run.glob("checkpoints/step-*/state.json")) else []
        program("train", *arguments, "--out", run, *resume, ranks=ranks)
        done.touch()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, kept in (("metrics.jsonl", ".jsonl"), ("config.yaml", ".yaml")):
        text = re.sub(r"dir: .*?, store", "dir: DIR, store", (run / name).read_text())
        (RESULTS / (run.name + kept)).write_text(text)
    return look.history(run)


def start(folder, runs, steps):
    """The first steps of two recipes: a figure, and a table of the mean loss of some of them."""
    histories = {}
    for name in RECIPES[:2]:
        settings = ["train.batch=32", f"train.max_steps={steps}", "train.log_every=10"]
        options = [part for setting in settings for part in ("--set", setting)]
        config = f"configs/{name}.yaml"
        histories[f"{name}.yaml"] = trained(
            runs / f"start-{name}", "--config", config, "--data", folder, *options
        )
    figures.curves(histories, RESULTS / "start.png")
    some = [steps * part // 5 // 10 * 10 for part in range(1, 6)]
    lines = ["| mean loss of ten steps, up to step | " + " | ".join(map(str, some)) + " | "
             "validation: top-1, top-5 error |", "|---" * (len(some) + 2) + "|"]  # fmt: skip
    for name, history in histories.items():
        losses = dict(zip(*history["loss"]))
        errors = " ".join(f"{history[key][1][-1]:.1%}" for key in ("top1_error", "top5_error"))
        cells = " | ".join(f"{losses[step]:.2f}" for step in some)
        lines.append(f"| `{name}` | {cells} | {errors} |")
    command = f"launch/train.py --config configs/alexnet.yaml --data DIR {' '.join(options)}"
    return "\n".join([*lines, "", f"`python {command}`, seed 0, {device_name()}."])


def small(folder, runs, config):
    """A training to the end, on one device and split: figures of both, errors of the second."""
    options = ["--config", config, "--data", folder]
    histories = {
        "one device": trained(runs / "single", *options),
        "split over two ranks": trained(runs / "split", *options, "--split-model", ranks=2),
    }
    figures.curves(histories, RESULTS / "curves.png")
    lines = ["| | top-1 error, one view | top-5 | top-1 error, ten views | top-5 |",
             "|---|---|---|---|---|"]  # fmt: skip
    found = {}
    for name, run in (("one device", "single"), ("split", "split"), ("both, averaged", None)):
        places = [runs / run] if run else [runs / "single", runs / "split"]
        for views in (1, 10):
            out = RESULTS / "evaluated.json"
            program("evaluate", *places, "--views", views, "--data", folder, "--out", out)
            found[f"{name}, {views}"] = json.loads(out.read_text())["networks"][-1]["averaged"]
        errors = [found[f"{name}, {views}"][key]
                  for views in (1, 10) for key in ("top1_error", "top5_error")]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(f'{error:.1%}' for error in errors)} |")
    document = {**origin(), "config": config, "errors": found}
    out.write_text(json.dumps(document, indent=1) + "\n")
    drawn = runs / "figures"
    colours = program("figures", runs / "split", "--data", folder, "--out", drawn)
    for figure in ("filters", "predictions", "confusion", "neighbours"):
        shutil.copy(drawn / f"{figure}.png", RESULTS)
    shares = re.findall(r"tower (\d): ([\d.]+%)", colours)
    apart = max(abs(a - b) for a, b in zip(*(h["loss"][1] for h in histories.values())))
    return "\n".join([
        *lines, "", f"The two losses in training, means over log intervals, differ by {apart:.3f} "
        "at most. Of the weights' energy in conv1, colour is "
        + ", ".join(f"{share} in tower {tower}" for tower, share in shares) + ".",
    ])  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photographs", type=Path, metavar="DIR")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipe"), metavar="RUNS")
    parser.add_argument("--config", default="configs/caltech.yaml")
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--only", choices=("diagnosis", "start", "small"))
    args = parser.parse_args()
    folder, runs = args.photographs.resolve(), args.runs.resolve()
    tables = {
        "diagnosis": lambda: diagnosis(folder),
        "start": lambda: start(folder, runs, args.steps),
        "small": lambda: small(folder, runs, args.config),
    }
    for name, table in tables.items():
        if args.only in (None, name):
            found = table()
            text = STUDY.read_text()
            mark = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            text = re.sub(mark, lambda m: f"{m[1]}{found}\n{m[2]}", text, flags=re.DOTALL)
            STUDY.write_text(text)
            print(f"{found}\n")


if __name__ == "__main__":
    main()
