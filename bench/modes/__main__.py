"""The modes side by side.

    python -m bench.modes runs      whole runs of launch/train.py: speed and memory a rank (runs.py)
    python -m bench.modes race      steps in turns, over TCP links of so many MB/s, bytes counted (race.py)
    python -m bench.modes links     what these links do: latency and bandwidth by size (calibrate.py)
    python -m bench.modes cells     races for the time model to be judged by (judge.py)
    python -m bench.modes judge     the time model against them
    python -m bench.modes memory    of a rank, predicted and measured (memory.py)
    python -m bench.modes page      the tables and the chart of docs/modes.md, from the results that are there

Each with -h for its options.
"""

import sys

from bench.modes import calibrate, judge, memory, page, race, runs

COMMANDS = {
    "runs": runs.main,
    "race": race.main,
    "links": calibrate.main,
    "cells": judge.measure,
    "judge": judge.judge,
    "memory": memory.main,
    "page": page.main,
}

if __name__ == "__main__":
    if sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(print(__doc__))
    if not set(sys.argv[1:2]) & set(COMMANDS):
        sys.exit(f"python -m bench.modes {' | '.join(COMMANDS)}, and its options; not {sys.argv[1:2]}")
    COMMANDS[sys.argv[1]](sys.argv[2:])
