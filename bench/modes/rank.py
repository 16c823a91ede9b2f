"""One process of a contender: builds what a mode works on, then does steps whenever it is told to.

    python -m bench.modes.rank MODE CONFIG BATCH THREADS [KEY=VALUE ...]

A line on stdin, the number of steps, gives a line of JSON on stdout: seconds of each step, and bytes that
this process's TCP sockets have sent since the line, as the kernel counts them (`ss`): payload without the
headers of TCP and IP, and apart from it what had to be sent again. They are counted before the first step and
after the last, when all ranks have come there, so no step is longer for it; to meet takes under 1 KB itself.
"""

import json
import os
import re
import subprocess
import sys
import time

from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory.predict import REPLICATED, parts_of, random_batch
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid, grid_of

FLAGS = {  # mode -> split, ddp, as grid_of has them
    "single": (False, False),
    "split": (True, False),
    "ddp": (False, True),
    "grid": (True, True),
    "fsdp": (False, True),
}
WARM_UP = 2  # steps: in the second, DDP has its buckets in order and FSDP its memory


def grid(mode, config, environment=os.environ) -> Grid:
    """This rank's. Raises: ValueError if so many ranks, or the batch, do not suit the mode."""
    own = grid_of(config.model.towers, *FLAGS[mode], environment)
    if mode in REPLICATED and own.replicas < 2:
        raise ValueError(f"{mode}: {own.world} ranks make one replica, it has 2 or more")
    if config.train.batch % own.replicas:
        raise ValueError(
            f"{mode}: a batch of {config.train.batch} does not divide over {own.replicas} replicas"
        )
    return own


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
    with Ranks(grid(mode, config), config.train.threads) as ranks:
        parts, batch, done = parts_of(mode, config, ranks), random_batch(config, ranks), 0

        def step():
            nonlocal done
            parts.model.seed_dropout(config.train.seed, ranks.grid.replica, done)
            train_step(parts.replicated, parts.optimizer, *batch, *how_of(config))
            done += 1

        for _ in range(WARM_UP):
            step()
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            print(json.dumps(turn(step, int(line), ranks)), flush=True)


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
