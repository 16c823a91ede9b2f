"""One process of a contender: builds what a mode works on, then does steps whenever it is told to.

    python -m bench.modes.rank MODE CONFIG BATCH THREADS [KEY=VALUE ...]

MODE may be `pace`: each rank for itself does the step of one device on PACE images, and nothing is sent. It
says how fast the machine is at the moment.

A line on stdin, the number of steps, gives a line of JSON on stdout: seconds of each step, and bytes that
this process's TCP sockets have sent since the line, as the kernel counts them (`ss`): payload without the
headers of TCP and IP, and apart from it what had to be sent again. They are counted before the first step and
after the last, when all ranks have come there, so no step is longer for it; to meet takes under 1 KB itself.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import time

from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory.plan import with_train
from alexnet2gpu.memory.predict import grid_here, parts_of, random_batch
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.names import MODES
from bench.modes import alternatives

PACE = 16  # images
WARM_UP = 2  # steps: in the second, DDP has its buckets in order and FSDP its memory


def counted():
    """Bytes that this process's TCP sockets have sent and others have received; and those sent again. Not
    `bytes_sent`: it also counts what this machine's own queue has dropped (seen at 125 MB/s)."""
    sockets = subprocess.run(["ss", "-tinHOp"], capture_output=True, text=True, check=True).stdout
    own = [line for line in sockets.splitlines() if f"pid={os.getpid()}," in line]
    return [
        sum(int(number) for line in own for number in re.findall(rf"\b{name}:(\d+)", line))
        for name in ("bytes_acked", "bytes_retrans")
    ]


def serve(mode, config):
    if mode in MODES:
        own = grid_here(mode, config.model.towers)
    else:
        own = Grid(towers=range(config.model.towers)) if mode == "pace" else alternatives.grid(config)
    with Ranks(own, config.train.threads) as ranks:
        if mode == "pace":
            step = ours("single", with_train(config, batch=PACE), ranks)
        else:
            step = ours(mode, config, ranks) if mode in MODES else alternative(mode, config, ranks)
        for _ in range(WARM_UP):
            step()
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            print(json.dumps(turn(step, int(line), ranks)), flush=True)


def ours(mode, config, ranks):
    """The step of a mode."""
    parts, batch, numbers = parts_of(mode, config, ranks), random_batch(config, ranks), itertools.count()

    def step():
        parts.model.seed_dropout(config.train.seed, ranks.grid.replica, next(numbers))
        train_step(parts.replicated, parts.optimizer, *batch, how_of(config))

    return step


def alternative(mode, config, ranks):
    """That of one of alternatives.py."""
    return alternatives.build("gpipe" if mode == "pipeline" else mode, config, ranks).step


def turn(step, steps, ranks):
    """So many steps, clocked; then what was sent in them."""
    before, seconds = counted(), []
    ranks.wait()
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    ranks.wait()
    sent, again = (after - then for after, then in zip(counted(), before))
    return {"seconds": seconds, "sent": sent, "sent_again": again}


if __name__ == "__main__":
    mode, file, size, threads, *settings = sys.argv[1:]
    serve(mode, load_config(file, [f"train.batch={size}", f"train.threads={threads}", *settings]))
