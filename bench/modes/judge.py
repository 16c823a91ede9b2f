"""How far the time of a step on paper (alexnet2gpu/ranks/cost.py) is true: cells that it was not fitted on.

    python -m bench.modes cells     what is drawn, and the races that measure it (modes-race-cpu.json)
    python -m bench.modes judge     each cell on paper and measured

A cell is a mode, ranks, towers, a batch, a link. 24 cells are of two ranks at batch 32 and 128 over three
links, four modes each; 24 more are drawn: eight settings of all others, in each three of its modes.
DRAW was written down before anything was measured. What the model knows: the profile (layers of one process
alone), each link's seconds of single messages (modes-links-cpu.json), and how fast the machine was in the
same rounds, by the contender `pace`, since a shared machine drifts by a third; and one step of FSDP2 in a
setting of its own (FITTED), which says what its copies cost.

Pairs of modes in one setting are in the right order if the model has them so; those measured within 5 % of
each other are ties.
"""

import itertools
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from functools import cache

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.profile import Profile, read
from alexnet2gpu.ranks.cost import Lines, fit, play
from alexnet2gpu.ranks.plans import Setting
from alexnet2gpu.ranks.schedule import TIMED, step_of, unsuited
from bench.modes import calibrate, race
from bench.modes.links import said
from bench.modes.rank import PACE
from bench.results import RESULTS, read_json, table, write

DRAW, TIE = 2014, 0.05
RATES = None, 125e6, 25e6
RACED = [(2, 2, batch, rate, ("split", "ddp", "hybrid", "fsdp")) for batch in (32, 128) for rate in RATES]
FITTED = 2, 2, 64, None
found_in = cache(read_json)
LEAST = 2**18  # bytes: smaller messages pass a token bucket at once


def cells():
    """(ranks, towers, batch, rate, modes) of every setting that is drawn."""
    draw = random.Random(DRAW)
    known = {setting[:4] for setting in RACED}
    shapes = itertools.product([(2, 2), (4, 2), (4, 4)], (16, 32, 64, 128), RATES)
    pool = [setting for (n, t), b, r in shapes if (setting := (n, t, b, r)) not in known]
    for ranks, towers, batch, rate in draw.sample(pool, 8):
        modes = [mode for mode in TIMED if mode != "single" and not unsuited(mode, towers, ranks, batch)]
        yield ranks, towers, batch, rate, tuple(draw.sample(modes, 3))


def measure(words):
    """Prints the settings, and races them; `--list`: prints them."""
    for number, (ranks, towers, batch, rate, modes) in enumerate([*RACED, (*FITTED, ("fsdp",)), *cells()]):
        rounds = 5 if number <= len(RACED) else 3
        link = "none" if rate is None else f"{rate / 1e6:g}"
        command = ["race", "--ranks", ranks, "--batches", batch, "--links", link, "--rounds", rounds]
        command += ["--steps", 1, "--modes", "pace", *modes, "--set", f"model.towers={towers}"]
        print(*command, flush=True)
        if "--list" not in words:
            subprocess.run([sys.executable, "-m", "bench.modes", *map(str, command)], check=True)


def seconds_of(ranks, towers, batch, rate):
    """Contender -> seconds of a step of the slowest rank, the median of the rounds."""
    name = f"alexnet, {ranks} ranks, batch {batch}, {said(rate)}, model.towers={towers}"
    rounds = {each: found["rounds"] for each, found in found_in(race.FILE)[name]["found"].items()}
    return {
        each: statistics.median(max(sum(rank["seconds"]) for rank in answers) for answers in of)
        for each, of in rounds.items()
    }


def profile_of(towers: int) -> Profile:
    """Of one process alone, with one thread: the shipped one, or that of the network in four towers."""
    return read("cpu" if towers == 2 else str(RESULTS / f"modes-profile-{towers}.json"))


def lines_of(ranks, rate, copying):
    """What carries bytes, as calibrate.py has measured single messages. On loopback it is cores that do, so a
    byte costs a rank there, and over any link, what it takes there."""
    found = found_in(calibrate.FILE)
    line, alone = (fitted(found[f"{ranks} ranks, {said(each)}"]["found"]) for each in (rate, None))
    rates = ("summing", "all_reduce"), ("gathering", "all_gather"), ("scattering", "reduce_scatter")
    parts = {name: line[kind].bandwidth / line["swap"].bandwidth for name, kind in rates}
    return Lines(replace(line["swap"], **parts, handling=1 / alone["all_reduce"].bandwidth, copying=copying))


def fitted(found):
    """Kind of message -> Line."""
    return {
        kind: fit([(b, statistics.median(s)) for b, s in zip(of["sent"], of["seconds"]) if b >= LEAST])
        for kind, of in found.items()
    }


def copying():
    """Seconds a byte, by FSDP2's step in the setting FITTED, which is none of the cells."""
    setting, measured = setting_of(*FITTED)
    bytes_ = sum(op.amount for op in step_of("fsdp", setting.network, 2, FITTED[2]) if op.kind == "copy")
    return max(0.0, measured["fsdp"] - setting.plan("fsdp", FITTED[2]).seconds[1]) / bytes_


def setting_of(ranks, towers, batch, rate, copying=0.0):
    """The model's setting, with layers as slow as `pace` has found them in these rounds; measured seconds."""
    network = load_config("configs/alexnet.yaml", [f"model.towers={towers}"]).model
    profile = profile_of(towers)
    lines, measured = lines_of(ranks, rate, copying), seconds_of(ranks, towers, batch, rate)
    crowd = max(1, ranks * profile.threads / profile.cores)
    alone = play(step_of("single", network, 1, PACE), profile, lines)
    slower = measured.pop("pace") / (alone * crowd)
    return Setting(network, profile.scaled(slower), lines, ranks), measured


def rows(copying):
    """(setting, mode, measured, low, modelled, high), seconds a step."""
    for *where, modes in [*RACED, *cells()]:
        setting, measured = setting_of(*where, copying)
        for mode in modes:
            low, middle, high = setting.plan(mode, where[2]).seconds
            yield tuple(where), mode, measured[mode], low, middle, high


def order(found):
    """Pairs of modes in one setting: how many, how many ties, how many others in the right order."""
    pairs = [(a, b) for a, b in itertools.combinations(found, 2) if a[0] == b[0]]
    apart = [(a, b) for a, b in pairs if abs(a[2] / b[2] - 1) > TIE]
    right = [(a, b) for a, b in apart if (a[2] < b[2]) == (a[4] < b[4])]
    return len(pairs), len(pairs) - len(apart), len(right)


def judge(words):
    """Prints each cell, and how many are how far off; writes bench/results/modes-judged-cpu.json."""
    seconds = copying()
    found = list(rows(seconds))
    lines = [
        [ranks, towers, batch, said(rate), mode, f"{m:.2f}", f"{middle:.2f}", f"{low:.2f}-{high:.2f}"]
        + [f"{middle / m - 1:+.1%}"]
        for (ranks, towers, batch, rate), mode, m, low, middle, high in found
    ]
    head = ["ranks", "towers", "batch", "link", "mode", "s a step", "on paper", "from - to", "error"]
    print(table(head, lines))
    errors = sorted(abs(middle / m - 1) for _, _, m, _, middle, _ in found)
    inside = sum(low <= m <= high for _, _, m, low, _, high in found)
    pairs, ties, right = order(found)
    figures = {"cells": len(found), "median": statistics.median(errors), "worst": errors[-1]}
    figures |= {"inside": inside, "pairs": pairs, "ties": ties, "right": right, "copying": seconds}
    print(figures)
    write("modes-judged", figures=figures, cells=[[*where, *rest] for where, *rest in found])
