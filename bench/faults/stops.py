"""What people and schedulers do to a run, by real commands, and what is left of it.

    python -m bench.faults.stops [WORD ...]     the cases whose names have one of these words, else all

    signals     Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 to the process group of the whole command, as a terminal or a
                scheduler sends them, with and without `2>&1 | tee log`, on one device and under torchrun,
                which dies of SIGUSR1 itself; to ranks alone, to one of them
    output      the terminal goes away, `| head -1`, a full disk behind stdout, no stderr, no stdin
    directory   emptied, deleted, renamed in mid-run; two starts that choose a name at once
    torchrun    stopped while its ranks come to their end; its last lines after a mistake

A case is a row: what is right, what is done in the middle, the command. Ten minutes on two cores.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.faults.campaign import difference, outcome
from bench.faults.live import (
    LAST,
    Live,
    by_shell,
    stop_torchrun,
    to_group,
    to_ranks,
    to_tee_first,
    train,
    unbroken,
    with_torchrun_gone,
)
from bench.processes import Pool

ALONE, SPLIT, DDP = "one device", "split, 2 ranks", "DDP, 2 ranks"
MIDDLE = 12  # step, of an epoch too
SHOWN = 12  # lines of torchrun that are on the screen in the end


# What is right: each returns whether it came so, and what was seen


def saved(live, go_on, expected, status=None):
    """Nothing that was logged is lost, and the run goes on as if nothing had happened."""
    lost = max(0, live.logged() - live.saved())
    seen = f"saved at step {live.saved()}, {lost} steps lost"
    right = not lost and live.saved() < LAST and status in (None, live.status)
    if wrong := go_on():
        return False, f"{seen}; --resume: {wrong}"
    far = difference(outcome(live.out), expected)
    return right and far == 0, f"{seen}; difference after --resume {far:.0e}"


def goes_on(live, go_on, expected, outs=("run",), status=0):
    """To its end, without a word of an error."""
    errors = [line for line in live.said() if "rror:" in line]
    seen = f"{len(errors)} lines of errors {errors[:1]}"
    if missing := [out for out in outs if not any(live.folder.glob(f"{out}/checkpoints/step-*"))]:
        return False, f"{seen}, nothing in {missing}, saved at step {live.saved()}"
    far = max(difference(outcome(live.folder / out), expected) for out in outs)
    return live.status == status and not errors and far == 0, f"{seen}, difference {far:.0e}"


def whole(live, go_on, expected):
    """It is all there and can be gone on with, or has ended in one line."""
    errors = [line for line in live.said() if "error: " in line]
    if live.status == 2:
        return len(errors) == 1, str(errors)
    if wrong := go_on():
        return False, f"--resume: {wrong}"
    far = difference(outcome(live.out), expected)
    return far == 0, f"difference after --resume {far:.0e}"


def told(live, go_on, expected):
    """In one line, which torchrun repeats among its last; ranks end with status 2, torchrun with 1."""
    lines = live.said()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = [line for line in lines[-SHOWN:] if errors and line.endswith(errors[0])]
    twos = any("exitcode" in line and ": 2 " in line for line in lines)
    right = live.status == 1 and twos and len(errors) == 1 and bool(last)
    return right, f"said {errors}, {len(lines)} lines, in the last {SHOWN}: {last}"


@dataclass
class Case:
    """A row of CASES: see the functions above, and live.py for the command."""

    right: Callable
    act: Callable | None = None
    shell: str = "exec {start} > log 2>&1"
    mode: str = ALONE


TEE = "{start} 2>&1 | tee log"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
NOT_BY_TEE = {number: partial(saved, status=128 + number) for number in SIGNALS}
MATRIX = {
    **{f"{n.name}, {ALONE}": Case(NOT_BY_TEE[n], to_group(n)) for n in SIGNALS},
    **{f"{n.name}, {ALONE}, tee": Case(saved, to_tee_first(n), TEE) for n in SIGNALS},
    **{f"{n.name}, {SPLIT}": Case(saved, to_group(n), mode=SPLIT) for n in SIGNALS},
    **{f"{n.name}, {SPLIT}, tee": Case(saved, to_tee_first(n), TEE, SPLIT) for n in SIGNALS},
}
HANDLED = "PET_SIGNALS_TO_HANDLE=SIGTERM,SIGUSR1 exec {start} > log 2>&1"
HUNG_UP, USER = signal.SIGHUP, signal.SIGUSR1
MATRIX |= {  # torchrun dies of it
    f"{USER.name}, {SPLIT}": Case(saved, with_torchrun_gone(to_group(USER)), mode=SPLIT),
    f"{USER.name}, {SPLIT}, tee": Case(saved, with_torchrun_gone(to_tee_first(USER)), TEE, SPLIT),
}
FIRST = slice(1)
RANKS = {
    "SIGHUP, all ranks alone": Case(saved, to_ranks(HUNG_UP), mode=SPLIT),
    "SIGHUP, one rank alone": Case(saved, to_ranks(HUNG_UP, FIRST), mode=SPLIT),
    "SIGUSR1, all ranks alone": Case(saved, to_ranks(USER), mode=SPLIT),
    "SIGUSR1, one rank alone": Case(saved, to_ranks(USER, FIRST), mode=SPLIT),
    "SIGUSR1, torchrun told to pass it on": Case(saved, to_group(USER), HANDLED, SPLIT),
}
TERMINAL = "exec {start} < {terminal} > {terminal} 2>&1"
HEAD = "set -o pipefail; {start} 2>&1 | head -1"
OUTPUT = {
    "terminal gone": Case(saved, Live.close_terminal, TERMINAL),
    "terminal gone, torchrun": Case(saved, Live.close_terminal, TERMINAL, SPLIT),
    "terminal gone, SIGHUP ignored": Case(goes_on, Live.close_terminal, "trap '' HUP; " + TERMINAL),
    "| head -1": Case(goes_on, shell=HEAD),
    "| head -1, torchrun": Case(goes_on, shell=HEAD, mode=SPLIT),
    "> /dev/full 2>&1": Case(goes_on, shell="{start} > /dev/full 2>&1"),
    "> /dev/full 2>&1, torchrun": Case(goes_on, shell="{start} > /dev/full 2>&1", mode=SPLIT),
    "2>&-": Case(goes_on, shell="{start} > log 2>&-"),
    "<&-": Case(goes_on, shell="{start} > log 2>&1 <&-"),
}
TWICE = "{unnamed} > log 2>&1 & first=$!; {unnamed} > log2 2>&1 && wait $first"
DIRECTORY = {
    "rm -rf OUT/*": Case(whole, by_shell("rm -rf run/*")),
    "rm -rf OUT/*, torchrun": Case(whole, by_shell("rm -rf run/*"), mode=SPLIT),
    "rm -rf OUT/*, then SIGTERM": Case(whole, by_shell("rm -rf run/*", signal.SIGTERM)),
    "rm -rf OUT": Case(whole, by_shell("rm -rf run")),
    "rm -rf OUT, then SIGTERM": Case(whole, by_shell("rm -rf run", signal.SIGTERM)),
    "mv OUT elsewhere": Case(whole, by_shell("mv run elsewhere")),
    "mv OUT elsewhere, then SIGTERM": Case(whole, by_shell("mv run elsewhere", signal.SIGTERM)),
    "two starts without --out": Case(
        partial(goes_on, outs=("runs/quick-single", "runs/quick-single-2")), shell=TWICE
    ),
}
WRONG = "exec {start} > log 2>&1 --set "
TORCHRUN = {
    "torchrun stopped before the end": Case(goes_on, stop_torchrun, mode=SPLIT),
    "a mistake, torchrun": Case(told, shell=WRONG + "train.batch=7", mode=DDP),
    "an unknown key, torchrun": Case(told, shell=WRONG + "train.sed=1", mode=SPLIT),
}
CASES = MATRIX | RANKS | OUTPUT | DIRECTORY | TORCHRUN


def start(case, folder):
    """Returns: the command, when it has ended."""
    live = Live(folder, case.mode, case.shell)
    try:
        if case.act:
            live.reach(MIDDLE)
            case.act(live)
    finally:
        live.end()
    return live


def judge(case, live, pool, expected):
    """Returns: whether it came as is right, and what was seen."""
    go_on = partial(train, pool, case.mode, "--out", live.out, "--resume")
    right, seen = case.right(live, go_on, expected)
    return right and not live.left, f"status {live.status}, {live.left} left over, {seen}"


def run(folder, words=()):
    """Returns: of how many cases, how many came as is right, what was seen in each; and of the matrix of
    signals, modes and tee."""
    pool, expected, seen, right = Pool(), {DDP: None}, {}, set()  # in DDP there are only mistakes
    chosen = [name for name in CASES if not words or any(word in name for word in words)]
    for number, name in enumerate(chosen):
        case, began = CASES[name], time.monotonic()
        if case.mode not in expected:
            expected[case.mode] = unbroken(case.mode, folder / case.mode, pool)
        (own := folder / str(number)).mkdir()
        came, seen[name] = judge(case, start(case, own), pool, expected[case.mode])
        right |= {name} if came else set()
        spent = time.monotonic() - began
        print(f"{name}: {'right' if came else 'WRONG'}, {spent:.0f} s: {seen[name]}", flush=True)
    pool.close()
    matrix = {"matrix": len(MATRIX.keys() & seen), "matrix right": len(MATRIX.keys() & right)}
    return {"cases": len(seen), "right": len(right), **matrix, "seen": seen}


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), sys.argv[1:])
    print("right: {right} of {cases}, of the signals {matrix right} of {matrix}".format_map(found))
