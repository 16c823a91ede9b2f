"""How far the time of a step on paper (alexnet2gpu/ranks/cost.py) is true: cells that it was not fitted on.

    python -m bench.modes cells     what is drawn, and the races that measure it (modes-race-cpu.json)
    python -m bench.modes judge     each cell on paper and measured

A cell is a mode, ranks, towers, a batch, a link. 24 cells are of two ranks at batch 32 and 128 over three
links, four modes each; 24 more are drawn: eight settings of all others, in each three of its modes.
DRAW was written down before anything was measured. What the model knows: the profile (layers of one process
alone), each link's seconds of single messages (modes-links-cpu.json), and how fast the machine was in the
same rounds, by the contender `pace`, since a shared machine drifts by a third.

Pairs of modes in one setting are in the right order if the model has them so; those measured within 5 % of
each other are ties.
"""

import itertools
import random
import subprocess
import sys

from alexnet2gpu.ranks.schedule import TIMED, unsuited

DRAW, TIE = 2014, 0.05
RATES = None, 125e6, 25e6
RACED = [(2, 2, batch, rate, ("split", "ddp", "hybrid", "fsdp")) for batch in (32, 128) for rate in RATES]
PROFILE = "cpu"


def cells():
    """(ranks, towers, batch, rate, modes) of every setting."""
    draw = random.Random(DRAW)
    known = {setting[:4] for setting in RACED}
    shapes = itertools.product([(2, 2), (4, 2), (4, 4)], (16, 32, 64, 128), RATES)
    pool = [setting for (n, t), b, r in shapes if (setting := (n, t, b, r)) not in known]
    for ranks, towers, batch, rate in draw.sample(pool, 8):
        modes = [mode for mode in TIMED if mode != "single" and not unsuited(mode, towers, ranks, batch)]
        yield ranks, towers, batch, rate, tuple(draw.sample(modes, 3))


def measure(words):
    """Prints the settings, and races them; `--list`: prints them."""
    for number, (ranks, towers, batch, rate, modes) in enumerate([*RACED, *cells()]):
        rounds = 5 if number < len(RACED) else 3
        link = "none" if rate is None else f"{rate / 1e6:g}"
        command = ["race", "--ranks", ranks, "--batches", batch, "--links", link, "--rounds", rounds]
        command += ["--steps", 1, "--modes", "pace", *modes, "--set", f"model.towers={towers}"]
        print(*command, flush=True)
        if "--list" not in words:
            subprocess.run([sys.executable, "-m", "bench.modes", *map(str, command)], check=True)
