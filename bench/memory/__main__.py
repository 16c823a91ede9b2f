"""The study of docs/memory.md in one command: every prediction beside its measurement.

    python -m bench.memory [CASE ...]       all of them: an hour on two cores, 16 GiB

Each case of cases.py is a command of launch/memory.py. Its rows go to bench/results/memory-cpu.json (or
-gpu.json), where those of cases that are not run stay. On the CPU, the tables of docs/memory.md are rewritten
in place between their marks, and with matplotlib its figures. bfloat16 takes most of the time: few CPUs
compute in it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from alexnet2gpu.model.device import gpus
from bench.memory.cases import CASES, PAGE, tables
from bench.results import REPOSITORY, origin, read_json, redraw, results_file, sets, write_json

FIGURES = REPOSITORY / "docs" / "results" / "memory"


def measure(name):
    """The rows of a case, with where they come from. The figures of `modes` go to the study."""
    config, settings, options = CASES[name]
    command = ["launch/memory.py", "--config", f"configs/{config}.yaml", *options]
    command += sets(settings)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, *command, "--out", folder], cwd=REPOSITORY, check=True)
        found = json.loads(Path(folder, "memory.json").read_text())
        if name == "modes" and found["rows"][0]["device"] == "cpu":
            FIGURES.mkdir(parents=True, exist_ok=True)
            for figure in Path(folder).glob("*.png"):
                shutil.copy(figure, FIGURES)
    return {**origin(), "command": " ".join(["python", *command]), "rows": found["rows"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {'; '.join(CASES)}")
    parser.add_argument("--redraw", action="store_true", help="only the tables")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"{', '.join(unknown)}: the cases are {'; '.join(CASES)}")
    on_gpu = bool(gpus()) and not args.redraw
    file = results_file("memory", on_gpu)
    cases = read_json(file)
    for name in [] if args.redraw else args.cases or CASES:
        cases[name] = measure(name)
        write_json(file, cases)
    if not on_gpu:
        redraw(PAGE, tables(cases))


if __name__ == "__main__":
    main()
