"""Runs that are killed at random moments and resumed until they are done, by real commands.

A run trains a small split network for 96 steps, with 12 evaluations and a checkpoint every 0.3 s.
Its first start, and half of the next ones, are killed with SIGKILL: one rank, all with their
launcher, or the launcher alone; in a step, an exchange, an evaluation, the writing of a checkpoint
(victim.py), or at any moment between start and end. `campaign` compares what comes out in the end
with a run to which nothing happened.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from alexnet2gpu.faults.processes import alive
from bench.faults.victim import children
from bench.modes.__main__ import MODES, NO_DROPOUT
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
    planted = fault and fault["phase"] != "any"
    going = (out / "config.yaml").exists()
    keys = [] if going else [*SHORT, *more]
    arguments = [*flags, *sets(keys), "--out", out, *["--resume"] * going]
    command = launch("bench.faults.victim" if planted else "train", *arguments, ranks=ranks)
    environment = {**os.environ, "FAULT": json.dumps(fault), "PYTHONPATH": str(REPOSITORY)}
    with open(out.with_name(f"{out.name}.log"), "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)


def end(process, fault=None):
    """Wait for a start to end, carry out a fault of no phase. Returns: exit status; seconds from
    the first death to the last; processes that were still there then, and had to be killed."""
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
    """What a run has come to: losses and errors by step, and the towers."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = {
        (line["step"], key): line[key]
        for line in lines
        for key in ("loss", "error", "test_loss", "top1_error")
        if key in line
    }
    newest = max(folder.glob("checkpoints/step-*"))
    return curve, {file.name: torch.load(file) for file in sorted(newest.glob("*.pt"))}


def difference(found, expected):
    """The largest, relative, of the losses and weights of two outcomes."""
    (curve, towers), (curve_2, towers_2) = found, expected
    if list(curve) != list(curve_2):
        return float("inf")
    far = [abs(curve[key] - curve_2[key]) / max(1e-3, abs(curve_2[key])) for key in curve]
    for name, tower in towers_2.items():
        for kind, tensors in tower.items():
            for key, tensor in tensors.items():
                distance = (towers[name][kind][key] - tensor).abs().max() / tensor.abs().max()
                far.append(float(distance))
    return max(far)


def campaign(runs, folder, change_modes, seed=0):
    """Returns: how many ended as the unbroken run, faults by phase and target, and the like."""
    draw = random.Random(seed)
    more = EXACT if change_modes else []
    limit = TOLERANCE if change_modes else 0
    unbroken = folder / "unbroken"
    assert end(start("split, 2 ranks", unbroken, more=more))[0] == 0
    expected = outcome(unbroken)
    found = {
        "runs": runs,
        "as the unbroken run": 0,
        "largest difference": 0.0,
        "starts": 0,
        "killed": {},
        "left over": 0,
        "slowest to be gone, s": 0.0,
        "wrong": [],
    }
    for number in range(runs):
        out, status, starts = folder / f"run-{number}", None, 0
        while status != 0 and starts < 20:
            mode = draw.choice(list(MODES)) if change_modes and starts else "split, 2 ranks"
            fault = fault_for(number, draw) if starts == 0 else None
            if starts and draw.random() < 0.5:
                fault = fault_for(draw.randrange(100), draw)
            status, seconds, left = end(start(mode, out, fault, more), fault)
            starts += 1
            found["left over"] += left
            if status and fault:
                kind = f"{fault['phase']}, {fault['who']}"
                found["killed"][kind] = found["killed"].get(kind, 0) + 1
                found["slowest to be gone, s"] = max(found["slowest to be gone, s"], seconds)
            elif status:
                log = out.with_name(f"{out.name}.log").read_text().splitlines()
                said = [line for line in log if "error" in line.lower() or "exitcode" in line]
                found["wrong"].append(
                    [f"run {number}: ended with {status}, but nobody was killed", *said[-8:]]
                )
                break
        found["starts"] += starts
        far = difference(outcome(out), expected) if status == 0 else float("inf")
        found["as the unbroken run"] += far <= limit
        found["largest difference"] = max(found["largest difference"], far)
        if far > limit:
            found["wrong"].append(f"run {number} differs by {far:.2g}")
        print(f"{number + 1}/{runs}: {starts} starts, difference {far:.1e}", flush=True)
    return found


if __name__ == "__main__":  # python -m bench.faults.campaign FOLDER RUNS [modes]
    (folder := Path(sys.argv[1])).mkdir(parents=True)
    print(json.dumps(campaign(int(sys.argv[2]), folder, "modes" in sys.argv), indent=1))
