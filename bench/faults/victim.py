"""launch/train.py with a fault planted in it: for campaign.py, which starts it in its place.

The environment's FAULT is JSON: on `rank`, in a `phase`, after `count` calls (or bytes, of a checkpoint),
`who` is killed: this rank, all ranks and their launcher, or the launcher alone.
"""

import json
import os
import signal
from pathlib import Path

from bench.results import program_of


def plant(fault):
    """Put the fault where it belongs."""
    from alexnet2gpu.faults import files
    from alexnet2gpu.ranks.link import Link
    from alexnet2gpu.runs import evaluate, loop

    left, whole = fault["count"], files.write_whole

    def before(function):
        """`function`, the last call of which does not return."""

        def called(*args, **how):
            nonlocal left
            left -= 1
            if left == 0:
                kill(fault["who"])
            return function(*args, **how)

        return called

    def write_whole(file, content, **how):
        nonlocal left
        content = bytes(content)
        if 0 <= left <= len(content):
            with open(file.with_name(f".{file.name}.new"), "wb") as opened:
                opened.write(content[:left])
            kill(fault["who"])
        left -= len(content)
        whole(file, content, **how)

    if fault["phase"] == "step":
        loop.train_step = before(loop.train_step)
    elif fault["phase"] == "exchange":  # own messages are on their way, others' not yet here
        gather, scatter = Link.start_gather, Link.start_scatter
        Link.start_gather = lambda *args: before(gather(*args))
        Link.start_scatter = lambda *args: before(scatter(*args))
    elif fault["phase"] == "evaluation":
        evaluate.errors = before(evaluate.errors)
    elif fault["phase"] == "checkpoint":
        files.write_whole = write_whole


def kill(who):
    """With SIGKILL."""
    launcher, own = os.getppid(), os.getpid()
    launched = "RANK" in os.environ
    others = [rank for rank in children(launcher) if rank != own] if launched else []
    victims = {
        "one rank": [own],
        "all": [*others, *[launcher] * launched, own],
        "launcher": [launcher if launched else own],
    }
    for pid in victims[who]:
        os.kill(pid, signal.SIGKILL)


def children(pid):
    """The processes that a process has started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    fault = json.loads(os.environ["FAULT"])
    if fault["rank"] == int(os.environ.get("RANK", 0)):
        plant(fault)
    program_of("train").main()
