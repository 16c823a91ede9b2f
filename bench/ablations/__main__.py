"""What made it work? Claims about AlexNet, each by networks that lack one thing: docs/ablations.md, anew.

    python -m bench.ablations data DIR [--fashion FOLDER] [--caltech FOLDER] [--cifar FOLDER]
    python -m bench.ablations run DIR [--hours H] [--only SUITE]
    python -m bench.ablations left
    python -m bench.ablations repeat DIR [ARM ...]
    python -m bench.ablations page

`data` writes the images that it is given into DIR: Fashion-MNIST's four files, photographs in train/ and
val/, CIFAR-10 likewise. `run` goes on where it was, a run of a thread on each core, and may be stopped at
any time; a row for each run goes to bench/results/ablations.jsonl. `left` counts what is missing.
`repeat` trains the first seed of some arms on clothes twice and says whether every digit is the same, and the
same as in its row: on another kind of processor, or with another torch, it is not. The arms and the claims
are in arms.yaml.
"""

import argparse
import fcntl
import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.ablations import data, page, runs
from bench.ablations.arms import suites
from bench.ablations.findings import finals, last
from bench.ablations.jobs import missing
from bench.processes import Failed, Pool
from bench.results import commit

FASHION = "/usr/share/datasets/fashion-mnist"  # Debian's and Ubuntu's package of that name
KINDS = {
    "fashion": ["data.name=fashion-mnist"],
    "caltech": ["data.name=folder", "data.size=64"],
    "cifar": ["data.name=folder", "data.size=32"],
}
AGAIN = ["base", "no communication", "average pooling"]


def prepare(args):
    """Of each set whose images are at hand."""
    folders = {"fashion": args.fashion, "caltech": args.caltech, "cifar": args.cifar}
    for name, folder in folders.items():
        if folder and not Path(folder).is_dir():
            raise ValueError(f"--{name} {folder}: there is no such directory")
        if folder:
            settings = [*KINDS[name], f"data.dir={Path(folder).resolve()}"]
            print(f"{name}: {data.prepare(name, settings, args.images)}")


def run(args):
    """Rows carry their commit, so there should be one."""
    if commit().endswith("-changed"):
        sys.exit("rows carry their commit: commit your changes first")
    with open(runs.FILE, "a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another run is under way")
        campaign = runs.Campaign(args.images.resolve(), time.monotonic() + 3600 * args.hours, args.only)
        for number in (signal.SIGTERM, signal.SIGINT):  # in a shell's background Ctrl-C's is ignored
            signal.signal(number, campaign.stop)
        if not (campaign.jobs(True) or campaign.jobs(False)):
            print(f"nothing is missing in {runs.FILE.name}")
        campaign.go()


def left(_):
    """Runs that are known to be missing; there are more once rates are chosen."""
    left = Counter(job.suite for job in missing(runs.errors_of(runs.rows())))
    said = [f"{suite}: {count} runs" for suite, count in left.items()]
    print(*(said or ["nothing is missing"]), sep="\n")


def repeat(args):
    """Status 1 if a digit of the two trainings differs, or of the row of a processor like this one."""
    found, good = runs.rows(), True

    def train(job):
        pool = Pool()
        try:
            return runs.run(job, pool, args.images.resolve())
        finally:
            pool.close()

    def differing(one, other):
        return [key for key in one if one[key] != other[key] and key not in ("seconds", "device")]

    def words(keys):
        return f"{', '.join(keys)} differ" if keys else "the same digits"

    for arm in args.arms:
        of = finals("fashion", arm, found) if arm in suites()["fashion"].arms else []
        if not of:
            raise ValueError(f"{arm}: there is no row of it")
        row = of[0]
        with ThreadPoolExecutor(2) as threads:
            one, other = threads.map(train, [runs.job_of(row)] * 2)
        twice, before = differing(one, other), differing(one, row)
        errors = f"{last(one):.2f} % for {last(row):.2f} %"
        beside = f"beside its row, of {row['device']}, {words(before)}, {errors}"
        print(f"{arm}: twice {words(twice)}; {beside}", flush=True)
        good &= not twice and (not before or one["device"] != row["device"])
    sys.exit(not good)


def main():
    parser = argparse.ArgumentParser(prog="bench.ablations", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    functions = {"data": prepare, "run": run, "repeat": repeat, "left": left, "page": lambda _: page.main()}
    for name, function in functions.items():
        commands.add_parser(name).set_defaults(function=function)
    for name in ("data", "run", "repeat"):
        commands.choices[name].add_argument("images", type=Path, metavar="DIR")
    for name in ("fashion", "caltech", "cifar"):
        commands.choices["data"].add_argument(f"--{name}", default=FASHION if name == "fashion" else None)
    commands.choices["run"].add_argument("--hours", type=float, default=24.0)
    commands.choices["run"].add_argument("--only", choices=suites(), metavar="SUITE")
    commands.choices["repeat"].add_argument("arms", nargs="*", default=AGAIN, metavar="ARM")
    args = parser.parse_args()
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # of the processes that train
    try:
        args.function(args)
    except (Failed, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
