"""What made it work? Claims about AlexNet, each by networks that lack one thing: docs/ablations.md, anew.

    python -m bench.ablations data DIR [--fashion FOLDER] [--caltech FOLDER] [--cifar FOLDER]
    python -m bench.ablations run DIR [--hours H] [--only SUITE]
    python -m bench.ablations left
    python -m bench.ablations page

`data` writes the images that it is given into DIR: Fashion-MNIST's four files, photographs in train/ and
val/, CIFAR-10 likewise. `run` goes on where it was, two runs at a time of a thread each, and may be stopped
at any time; a row for each run goes to bench/results/ablations.jsonl. `left` counts what is missing. The arms
and the claims are in arms.yaml.
"""

import argparse
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from bench.ablations import data, runs
from bench.ablations.jobs import missing
from bench.processes import Failed
from bench.results import commit

FASHION = "/usr/share/datasets/fashion-mnist"  # Debian's and Ubuntu's package of that name
KINDS = {
    "fashion": ["data.name=fashion-mnist"],
    "caltech": ["data.name=folder", "data.size=64"],
    "cifar": ["data.name=folder", "data.size=32"],
}


def prepare(args):
    """Of each set whose images are at hand."""
    folders = {"fashion": args.fashion, "caltech": args.caltech, "cifar": args.cifar}
    for name, folder in folders.items():
        if folder and Path(folder).is_dir():
            settings = [*KINDS[name], f"data.dir={Path(folder).resolve()}"]
            print(f"{name}: {data.prepare(name, settings, args.images)}")


def main():
    parser = argparse.ArgumentParser(prog="bench.ablations", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("data", "run"):
        commands.add_parser(name).add_argument("images", type=Path, metavar="DIR")
    for name in ("fashion", "caltech", "cifar"):
        commands.choices["data"].add_argument(f"--{name}", default=FASHION if name == "fashion" else None)
    commands.choices["run"].add_argument("--hours", type=float, default=24.0)
    commands.choices["run"].add_argument("--only", metavar="SUITE")
    commands.add_parser("left")
    commands.add_parser("page")
    args = parser.parse_args()
    if args.command == "data":
        return prepare(args)
    if args.command == "left":
        left = Counter(job.suite for job in missing(runs.errors_of(runs.rows())))
        return print(*(f"{suite}: {count} runs" for suite, count in left.items()), sep="\n")
    if args.command == "page":
        from bench.ablations import page  # matplotlib

        return page.main()
    if commit().endswith("-changed"):
        sys.exit("rows carry their commit: commit your changes first")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
    try:
        runs.Campaign(args.images.resolve(), time.monotonic() + 3600 * args.hours, args.only).go()
    except Failed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
