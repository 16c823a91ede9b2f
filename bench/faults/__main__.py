"""Faults of a long run, done on purpose, and what comes of them: docs/faults.md.

    python -m bench.faults [--only PART ...] [--runs 100]

    same mode     runs killed at random moments and resumed until done: campaign.py
    other modes   the same, in a mode drawn anew at each start
    writing       the writer of a checkpoint killed at a random byte 50 times, and the newest file cut at one
                  50 times
    files         YAML, checkpoints, packs and sidecars changed 1,000 times: fuzz.py
    stopped rank  SIGSTOP: when the others are gone, and what they say
    cost          what checkpoints take of the time of configs/quick.yaml
    same bits     two runs with one seed, in each mode
    stops         what people, terminals and schedulers do to a run: stops.py
    calls         the n-th open, write, ... fails, for every n: calls.py
    readers       10,000 inputs of all that reads files: readers.py
    machines      two of them: told different things, killed, cut off: machines.py; needs root

All on the CPU, two hours and a half. Writes bench/results/faults-cpu.json and the table of the page
(table.py); --redraw only draws it.
"""

import argparse
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.data.task import learned_of
from alexnet2gpu.faults.processes import alive
from alexnet2gpu.runs.checkpoints import resume, saver
from alexnet2gpu.runs.checkpoints.format import newest_checkpoint
from bench.faults import calls, fuzz, machines, readers, stops
from bench.faults.campaign import campaign, difference, end, outcome, start
from bench.faults.table import drawn, rows
from bench.faults.victim import children, plant
from bench.modes.runs import MODES
from bench.results import REPOSITORY, launch, origin, read_json, redraw, results_file, write_json

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of all it starts: on GPUs two runs are not the same
PAGE = REPOSITORY / "docs" / "faults.md"
FILE = results_file("faults", on_gpu=False)


def writing(folder, count=50, seed=0):
    """Each time the checkpoint before should be found."""
    run, draw = folder / "run", random.Random(seed)
    assert end(start("one device", run))[0] == 0
    config = load_config(run / "config.yaml")
    images, _ = load_images(config.data, config.model)
    task = learned_of(images, config.data).task
    last = resume.find_start(run, config, task).checkpoint
    contents = {file.name: file.read_bytes() for file in last.glob("*.pt")}
    state = {"progress": {"step": 97}, **resume.about(config, task), "versions": {}}
    ends = {"towers": len(contents), "over": threading.Event()}
    write = partial(saver.write, run / "checkpoints", 97, state, contents, **ends)

    def finds_last():
        return resume.find_start(run, config, task).checkpoint == last

    found = {"killed": count, "taken the one before": 0, "cut": count, "taken it again": 0}
    for _ in range(count):
        at = draw.randrange(sum(map(len, contents.values())) + 3000)
        child = os.fork()
        if child == 0:
            plant({"phase": "checkpoint", "count": at, "who": "one rank"})
            write(attempt="x")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        found["taken the one before"] += finds_last()
    write(attempt="y")
    newest = newest_checkpoint(run)
    for _ in range(count):
        file = draw.choice(sorted(newest.iterdir()))
        whole = file.read_bytes()
        os.truncate(file, draw.randrange(len(whole)))
        found["taken it again"] += finds_last()
        file.write_bytes(whole)
    return found


def changed_files(folder, count=1000):
    """Shared out over the kinds of files."""
    wrong, victims = [], fuzz.victims(folder)
    shared = dict.fromkeys(victims, 0)
    for kind, victim in victims.items():
        for what, how in fuzz.fuzz(victim, -(-count // len(victims)), seed=2):
            shared[kind] += 1
            if how:
                wrong.append(f"{kind}, {what}: {how}")
    return {"changed": sum(shared.values()), **shared, "wrong": wrong}


def stopped_rank(folder):
    """A rank of a running split is stopped."""
    process = start("split, 2 ranks", folder / "run", more=["train.epochs=1000"])
    metrics = folder / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 50:
        time.sleep(0.1)
    survivor, victim = sorted(children(process.pid))
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    while alive(survivor):
        time.sleep(0.02)
    found = {"survivor gone after, s": time.monotonic() - began}
    status, *_ = end(process)
    found |= {"all gone after, s": time.monotonic() - began, "status": status}
    said = [line for line in (folder / "run.log").read_text().splitlines() if "error: rank" in line]
    return found | {"said": said, "still there": alive(victim)}


def cost(folder):
    """What checkpoints after every epoch take of quick.yaml's training, evaluations included: what the loop
    waits for, and all of it, if the loop waited for the disk as well; shares of 1. Clocked within one run,
    since two runs differ by more."""
    shares = {}
    for mode in ("one device", "split, 2 ranks"):
        ranks, flags = MODES[mode]
        command = launch("bench.faults.cost", "--out", folder / mode, *flags, ranks=ranks)
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        waited, all_, total = map(float, done.stdout.split("SPENT ")[1].split()[:3])
        shares[mode] = {"loop": waited / total, "with the disk": all_ / total}
    return shares


def same_bits(folder):
    """The largest difference of two runs, by mode."""
    far = {}
    for mode in MODES:
        outs = [folder / f"{mode}-{number}" for number in (1, 2)]
        assert [end(start(mode, out))[0] for out in outs] == [0, 0]
        far[mode] = difference(*map(outcome, outs))
    return far


PARTS = {
    "same mode": lambda folder, runs: campaign(folder, runs, False),
    "other modes": lambda folder, runs: campaign(folder, runs, True),
    "writing": lambda folder, runs: writing(folder),
    "files": lambda folder, runs: changed_files(folder),
    "stopped rank": lambda folder, runs: stopped_rank(folder),
    "cost": lambda folder, runs: cost(folder),
    "same bits": lambda folder, runs: same_bits(folder),
    "stops": lambda folder, runs: stops.run(folder),
    "calls": lambda folder, runs: calls.run(folder),
    "readers": lambda folder, runs: readers.fuzz_readers(folder, 10_000, seed=0),
    "machines": lambda folder, runs: machines.run(folder),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, default=100, help="of each campaign")
    parser.add_argument("--redraw", action="store_true", help="only the table of the page")
    args = parser.parse_args()
    parts = read_json(FILE)
    for name in [] if args.redraw else args.only:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # nothing that a changed file might leave behind lands elsewhere
            (work := Path(folder) / "work").mkdir()
            found = PARTS[name](work, args.runs)
        parts[name] = {**origin(), "found": found}
        parts = {name: parts[name] for name in PARTS if name in parts}
        write_json(FILE, parts)
        print(*rows({name: parts[name]}), sep="\n", flush=True)
    redraw(PAGE, {"faults": drawn(parts)})


if __name__ == "__main__":
    main()
