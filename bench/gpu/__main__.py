"""The proof on a GPU, in three commands: processes that stay, items with deadlines.

    python -m bench.gpu check                [--out DIR] [--seconds 330] [--only ITEM ...]
    python -m bench.gpu measure              [--out DIR] [--seconds 500] [--only ITEM ...]
    python -m bench.gpu train [PHOTOGRAPHS]  [--out DIR] [--seconds 520] [--only ITEM ...]

check compares what a GPU computes with the CPU and float64, and the modes with one device; measure has
memory, speed and their ceilings; train trains on photographs (train/CLASS/*, val/CLASS/*; without, on the
bundled ones), on one device and split. On one GPU ranks share it through gloo; on several each has its own,
through NCCL. Without any it is a dry run: small networks, a minute or so each.

Writes COMMAND-1gpu.json (-2gpu.json; -cpu.json) after each item, and COMMAND-1gpu.zip with what is no figure,
into bench/results or --out; ends with a table. Exit status: 1 if an item has failed, 2 if the command is
wrong. --only takes the beginnings of items' names.
"""

import argparse
import math
import os
import shlex
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from alexnet2gpu.data.pack.layout import is_pack
from alexnet2gpu.model.device import gpus
from bench.gpu import check, measure, train
from bench.gpu.items import carry_out
from bench.gpu.page import verdict
from bench.processes import Pool
from bench.results import RESULTS, commit, table, write_json

SECONDS = {"check": 330, "measure": 500, "train": 520}
LARGEST = 16 * 10**6  # bytes of a file


def parse(argv):
    parser = argparse.ArgumentParser(prog="bench.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=list(SECONDS))
    known = "with train/ and val/, or a pack of them: for train"
    parser.add_argument("photographs", nargs="?", metavar="PHOTOGRAPHS", help=known)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="default: bench/results")
    usual = ", ".join(f"{seconds} for {command}" for command, seconds in SECONDS.items())
    parser.add_argument("--seconds", type=float, help=f"in all; default: {usual}")
    parser.add_argument("--only", nargs="+", metavar="ITEM", help="beginnings of names")
    args = parser.parse_args(argv)
    args.seconds = SECONDS[args.command] if args.seconds is None else args.seconds
    if not (math.isfinite(args.seconds) and args.seconds > 0):
        parser.error(f"--seconds {args.seconds}: should be more than 0")
    if args.photographs is not None:
        if args.command != "train":
            parser.error(f"{args.photographs}: only train takes photographs")
        args.photographs = Path(args.photographs)
        if not (is_pack(args.photographs) or (args.photographs / "train").is_dir()):
            parser.error(f"{args.photographs}: there is no train/ in it, and it is no pack")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.out).close()
    except OSError as error:
        parser.error(f"--out {args.out}: {error.strerror}")
    return args


def main(argv=None):
    args, start = parse(argv), time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):  # then the pool is closed, too
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as work:
        try:
            return carried_out(args, items_of(args, Path(work)), start + args.seconds)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT


def items_of(args, work):
    """Those of the command that --only lets through."""
    items = {
        "check": check.items,
        "measure": measure.items,
        "train": lambda: train.items(args.photographs, work, time.time() + args.seconds),
    }[args.command]()
    for beginning in args.only or []:
        if not any(item.name.startswith(beginning) for item in items):
            names = ", ".join(item.name for item in items)
            print(f"error: --only {beginning}: no item begins so, of: {names}", file=sys.stderr)
            raise SystemExit(2)
    return [item for item in items if item.name.startswith(tuple(args.only or [""]))]


def carried_out(args, items, end):
    """Do the items; write, and print, what is found. Returns: the exit status."""
    count = gpus()
    print(
        f"{count} GPUs"
        if count
        else "no GPU that torch can compute on: a dry run on the CPU, with small networks"
    )
    if not count:  # more threads are slower where others have the cores too
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    kind = f"{count}gpu" if count else "cpu"
    file, archive = (args.out / f"{args.command}-{kind}.{suffix}" for suffix in ("json", "zip"))
    archive.unlink(missing_ok=True)
    found = {"gpus": count, "commit": commit(), "command": said(args), "items": []}
    pool = Pool()
    try:
        for result, files in carry_out(items, pool, count, end):
            if result["item"] == "versions":
                found = result["figures"] | found
            result |= {"files": put(archive, files)} if files else {}
            found["items"].append(result)
            save(file, found)
            print(f"{result['item']}: {verdict(result)}", flush=True)
    finally:
        pool.close()
    print(f"\n{table(['item', 's', '', 'found'], map(row, found['items']))}\n\n{file}")
    return int(any(result["passed"] is False for result in found["items"]))


def said(args):
    """The command, without directories of this machine."""
    words = ["python", "-m", "bench.gpu", args.command, *["PHOTOGRAPHS"] * bool(args.photographs)]
    words += ["--seconds", f"{args.seconds:g}", *(["--only", *args.only] if args.only else [])]
    return shlex.join(words)


def save(file, found):
    """Beside it, then in its place: whoever reads it finds it whole."""
    beside = file.with_suffix(".new")
    write_json(beside, found)
    os.replace(beside, file)


def put(archive, files):
    """Add files to an archive that may not get too large. Returns: their names, or why not."""
    said = []
    for name, content in files.items():
        old = archive.read_bytes() if archive.exists() else None
        with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as into:
            into.writestr(name, content)
        if archive.stat().st_size > LARGEST:
            archive.write_bytes(old) if old else archive.unlink()
            name = f"{name}: left out, too large"
        said.append(name)
    return said


def row(result):
    """A line of the table."""
    status, _, more = verdict(result).partition(": ")
    return result["item"], f"{result['seconds']:.1f}", status, more


if __name__ == "__main__":
    sys.exit(main())
