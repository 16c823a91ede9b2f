"""Fine-tuning against training from scratch: the table of docs/runs.md, anew.

    python -m bench.runs DIR [--runs RUNS]

DIR has Caltech-101 in train/ and val/ (or other photographs of many classes). Of its classes every tenth
is put aside, with 20 photographs each to train on and all of val/ to test on. configs/caltech.yaml is trained
on the others once, RUNS/base; then on those put aside, three seeds, with its weights and without. Runs that
are in RUNS are not repeated. Two CPU cores take an hour and a half.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from alexnet2gpu.data.sources import load_test_images
from alexnet2gpu.runs.evaluate import find_saved
from bench.results import REPOSITORY, launch, redraw, results_file, sets, table, write

PAGE = REPOSITORY / "docs" / "runs.md"
SEEDS, FEW = 3, 20
SHORT = ["train.batch=20", "train.epochs=60"]
RATES = """optim.schedule=[
  {epoch: 1, weights: 0.01, biases: 0.02}, {epoch: 41, weights: 0.001, biases: 0.002},
  {epoch: 53, weights: 1e-4}, {epoch: 57, colour: 0}]"""
GENTLY = """optim.schedule=[
  {epoch: 1, weights: 0.001, biases: 0.002, layers: {fc8: {weights: 0.01, biases: 0.02}}},
  {epoch: 41, weights: 0.0001, biases: 0.0002, layers: {fc8: {weights: 0.001, biases: 0.002}}},
  {epoch: 57, colour: 0}]"""
ARMS = {"from scratch": RATES, "from the weights of the other classes": GENTLY}


def share_out(photographs, folder):
    """Links to the photographs: `folder`/base of most classes, `folder`/few of every tenth."""
    for number, place in enumerate(sorted((photographs / "train").iterdir())):
        aside = "few" if number % 10 == 5 else "base"
        for part in ("train", "val"):
            (folder / aside / part).mkdir(parents=True, exist_ok=True)
        (folder / aside / "val" / place.name).symlink_to(photographs / "val" / place.name)
        if aside == "base":
            (folder / aside / "train" / place.name).symlink_to(place)
            continue
        (folder / aside / "train" / place.name).mkdir()
        for file in sorted(place.iterdir())[:FEW]:
            (folder / aside / "train" / place.name / file.name).symlink_to(file)


def train(run, *arguments):
    """Train into a directory, unless it is there."""
    if not (run / "done").exists():
        command = launch("train", "--config", "configs/caltech.yaml", *arguments, "--out", run)
        if subprocess.run(command, cwd=REPOSITORY).returncode:
            sys.exit(f"failed: {command}")
        (run / "done").touch()


def errors_of(run, photographs):
    """Top-1 errors on the test photographs: of all, and the mean of those of the classes, which count
    alike."""
    saved = find_saved(run, overrides=[f"data.dir={photographs}", "train.batch=64"])
    test = load_test_images(saved.config.data, saved.config.model, saved.learned)
    log_p, labels = saved.load(torch.device("cpu")).classify(test)
    wrong = (log_p.argmax(1) != labels).double()
    of_classes = [wrong[labels == label].mean().item() for label in labels.unique()]
    return {"all": wrong.mean().item(), "classes": statistics.mean(of_classes)}


def drawn(errors):
    """The table, of the errors of each arm."""
    lines = []
    for name, found in errors.items():
        cells = [name]
        for kind in ("classes", "all"):
            rates = [one[kind] for one in found]
            cells.append(f"{statistics.mean(rates):.1%} ({min(rates):.1%} to {max(rates):.1%})")
        lines.append(cells)
    head = ["top-1 error, mean of three seeds (least to most)", "classes alike", "photographs alike"]
    return table(head, lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photographs", metavar="DIR", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    runs, threads = args.runs.resolve(), ["--set", "train.threads=1"]
    with tempfile.TemporaryDirectory() as folder:
        share_out(args.photographs.resolve(), Path(folder))
        train(runs / "base", "--data", f"{folder}/base", *threads)
        errors = {name: [] for name in ARMS}
        for seed in range(SEEDS):
            for number, (name, rates) in enumerate(ARMS.items()):
                start = ["--from", runs / "base"] if number else []
                changes = sets([*SHORT, rates, f"train.seed={seed}"])
                options = ["--data", f"{folder}/few", *start, *changes, *threads]
                run = runs / f"few-{number}-{seed}"
                train(run, *options)
                errors[name].append(errors_of(run, f"{folder}/few"))
    write("finetune", errors=errors)
    redraw(PAGE, {"finetune": drawn(errors)})
    print(results_file("finetune", False))


if __name__ == "__main__":
    main()
