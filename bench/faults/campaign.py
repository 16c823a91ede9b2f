"""Runs that are killed at random moments and resumed until they are done, by real commands.

A run trains a small split network for 96 steps, with 12 evaluations and a checkpoint every 0.3 s. Its first
start, and half of the next ones, are killed with SIGKILL: one rank, all with their launcher, or the launcher
alone; in a step, an exchange, an evaluation, the writing of a checkpoint (victim.py), or at any moment
between start and end. `campaign` compares what comes out in the end with a run to which nothing happened.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from alexnet2gpu.faults.processes import alive
from alexnet2gpu.runs.metrics import read_metrics
from bench.faults.victim import children
from bench.modes.runs import MODES, NO_DROPOUT
from bench.results import REPOSITORY, launch, sets

SHORT = [
    "data.name=synthetic",
    "train.epochs=12",
    "train.log_every=1",
    "train.save_minutes=0.005",
    "optim.schedule=[{epoch: 1, weights: 0.01, biases: 0.02}]",
]
EXACT = [*NO_DROPOUT, "train.precision=float64"]  # so that modes agree to rounding
PHASES = {"step": 90, "exchange": 700, "evaluation": 11, "checkpoint": 12_000_000, "any": 5.0}
TARGETS = ("one rank", "all", "launcher")
GONE = 60  # seconds, for all to be gone
TOLERANCE = 1e-9  # relative, between modes


def start(mode, out, fault=None, more=()):
    """A process that starts the run, or goes on with it."""
    ranks, flags = MODES[mode]
    program = "bench.faults.victim" if fault and fault["phase"] != "any" else "train"
    more = ["--resume"] if (out / "config.yaml").exists() else sets([*SHORT, *more])
    command = launch(program, *flags, "--out", out, *more, ranks=ranks)
    environment = {**os.environ, "FAULT": json.dumps(fault), "PYTHONPATH": str(REPOSITORY)}
    with open(out.with_name(f"{out.name}.log"), "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)


def end(process, fault=None):
    """Wait for a start to end, carry out a fault of no phase. Returns: exit status; seconds from the first
    death to the last; processes that were still there then, and had to be killed."""
    began, ranks, first = time.monotonic(), set(), None
    while True:
        ranks |= set(children(process.pid))
        if fault and fault["phase"] == "any" and time.monotonic() - began > fault["count"]:
            victims = {
                "one rank": sorted(ranks)[fault["rank"] :][:1] or [process.pid],
                "all": [*ranks, process.pid],
                "launcher": [process.pid],
            }
            for victim in victims[fault["who"]]:
                if alive(victim):
                    os.kill(victim, signal.SIGKILL)
            fault = None
        status = process.poll()
        living = [pid for pid in ranks if alive(pid)]
        if first is None and (status is not None or len(living) < len(ranks)):
            first = time.monotonic()
        if status is not None and not living:
            return status, time.monotonic() - first, 0
        if first is not None and time.monotonic() - first > GONE:
            for pid in (*living, process.pid):
                os.kill(pid, signal.SIGKILL)
            return process.wait(), GONE, len(living)
        time.sleep(0.02)


def fault_for(number, draw):
    """A fault of the kind whose turn it is, at a random moment."""
    phase, who = list(PHASES)[number % len(PHASES)], TARGETS[number // len(PHASES) % len(TARGETS)]
    count = draw.uniform(0, PHASES[phase])
    count = count if phase == "any" else int(count) + (phase != "checkpoint")
    return {"phase": phase, "count": count, "rank": draw.randrange(2), "who": who}


def outcome(folder):
    """What a run has come to: losses and errors by step, and the tensors of the towers."""
    lines, keys = read_metrics(folder / "metrics.jsonl"), ("loss", "error", "test_loss", "top1_error")
    curve = {(line["step"], key): line[key] for line in lines for key in keys if key in line}
    newest = max(folder.glob("checkpoints/step-*"))
    towers = {file.name: torch.load(file) for file in newest.glob("*.pt")}
    parts = {(name, kind): tensors for name, tower in towers.items() for kind, tensors in tower.items()}
    return curve, {(*part, key): tensor for part, tensors in parts.items() for key, tensor in tensors.items()}


def difference(found, expected):
    """The largest, relative, of the losses and weights of two outcomes."""
    (curve, tensors), (curve_2, tensors_2) = found, expected
    if list(curve) != list(curve_2):
        return float("inf")
    far = [abs(curve[key] - curve_2[key]) / max(1e-3, abs(curve_2[key])) for key in curve]
    for key, tensor in tensors_2.items():
        far.append(float((tensors[key] - tensor).abs().max() / tensor.abs().max()))
    return max(far)


def campaign(folder, runs, change_modes, seed=0):
    """Returns: how many ended as the unbroken run, faults by phase and target, and the like."""
    draw, unbroken = random.Random(seed), folder / "unbroken"
    more, limit = (EXACT, TOLERANCE) if change_modes else ([], 0)
    assert end(start("split, 2 ranks", unbroken, more=more))[0] == 0
    expected = outcome(unbroken)
    found = {"runs": runs, "as the unbroken run": 0, "largest difference": 0.0, "starts": 0}
    found |= {"killed": Counter(), "left over": 0, "slowest to be gone, s": 0.0, "wrong": []}
    for number in range(runs):
        out = folder / f"run-{number}"
        before = found["starts"]
        done = finish(number, out, more, draw, found)
        far = difference(outcome(out), expected) if done else float("inf")
        found["as the unbroken run"] += far <= limit
        found["largest difference"] = max(found["largest difference"], far)
        if far > limit:
            found["wrong"].append(f"run {number} differs by {far:.2g}")
        starts = found["starts"] - before
        print(f"{number + 1}/{runs}: {starts} starts, difference {far:.1e}", flush=True)
    return found


def finish(number, out, more, draw, found):
    """Start a run until it is done, at most 20 times, in other modes if there is `more` to set; count in
    `found` what happened. Returns: whether it is done."""
    for starts in range(20):
        mode = draw.choice(list(MODES)) if more and starts else "split, 2 ranks"
        fault = fault_for(number, draw) if starts == 0 else None
        if starts and draw.random() < 0.5:
            fault = fault_for(draw.randrange(100), draw)
        status, seconds, left = end(start(mode, out, fault, more), fault)
        found["starts"] += 1
        found["left over"] += left
        if status == 0:
            return True
        if not fault:
            log = out.with_name(f"{out.name}.log").read_text().splitlines()
            said = [line for line in log if "error" in line.lower() or "exitcode" in line]
            what = f"run {number}: ended with {status}, but nobody was killed"
            found["wrong"].append([what, *said[-8:]])
            return False
        found["killed"][f"{fault['phase']}, {fault['who']}"] += 1
        found["slowest to be gone, s"] = max(found["slowest to be gone, s"], seconds)
    return False


if __name__ == "__main__":  # python -m bench.faults.campaign FOLDER RUNS [modes]
    (folder := Path(sys.argv[1])).mkdir(parents=True)
    print(json.dumps(campaign(folder, int(sys.argv[2]), "modes" in sys.argv), indent=1))
