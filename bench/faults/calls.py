"""Every call that may fail, failing: the n-th open, write or fsync, for every n, as SQLite tests itself.

    python -m bench.faults.calls [--only FUNCTION ...] [--who RANK ...] [--most N]

A run of two checkpoints is gone on with: two steps, a checkpoint, an evaluation, a checkpoint. Meanwhile the
n-th call of a function fails on one rank, only that one, or all from it on, as on a disk that stays full; n
grows until a run goes through without a fault. The rank is to end all in one line, with status 2 and nothing
left running, and the run to go on from there to the losses and weights of an unbroken one, bit for bit. Or
the fault is borne, and the run ends at once as the unbroken one.

    open, read, write (half of it gets through), fsync, rename, mkdir, unlink, truncate    of files in --out
    thread                                                                    one more cannot be started
    memory                                                 there is none for a tensor of 8 KiB or more

It is the C library's functions that fail: failing.c is preloaded. Ranks are forks of a process that has
imported torch and computed nothing. Needs Linux with glibc, and a C compiler.
"""

import argparse
import gc
import json
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from bench.faults.forks import CALLED, FUNCTIONS, Ended, Fault, complaints, preloaded, start
from bench.results import sets

BEGINNING = "a new run"
WHO = {  # ranks, and the one that fails
    "one device": (1, 0),
    BEGINNING: (1, 0),
    "rank 0 of 2": (2, 0),
    "rank 1 of 2": (2, 1),
}
STAGES = """[{conv1: {type: conv, out: 4, kernel: 7, stride: 4, init: 0.1}, norm1: {type: lrn, size: 5,
  alpha: 1e-4, beta: 0.75, k: 2}, relu1: {type: relu}, pool1: {type: max_pool, kernel: 3, stride: 2},
  flatten: {type: flatten}}, {fc2: {type: linear, out: 64, init: 0.1}, relu2: {type: relu}, drop2: {type:
  dropout, p: 0.5, scaling: "2012"}}, {fc3: {type: linear, out: 10, init: 0.1}}]"""
SHORT = [f"model.stages={STAGES}", "data.name=synthetic", "train.batch=256", "train.threads=1"]
SHORT += ["train.save_minutes=0", "train.keep=2"]
BEFORE, STEPS = 2, 4  # done before the fault; in all


class Victim:
    """A run of two checkpoints, or one that is to begin, and what it comes to if nothing happens."""

    def __init__(self, folder: Path, who: str):
        self.who, (self.ranks, self.rank) = who, WHO[who]
        self.folder, self.begins = folder / who, who == BEGINNING
        self.begun, self.unbroken = self.folder / "begun", self.folder / "unbroken"

    def prepare(self) -> None:
        """Make both."""
        self.folder.mkdir(parents=True)
        if not self.begins:
            start(self.begun, sets([*SHORT, f"train.max_steps={BEFORE}"]), self.ranks)
        self.copy(self.unbroken)
        ended = self.go_on(self.unbroken)
        assert ended.well, ended

    def copy(self, out: Path) -> None:
        """Make it what the run is before a call fails."""
        if not self.begins:
            shutil.copytree(self.begun, out, symlinks=True)

    def go_on(self, out: Path, *how) -> Ended:
        """As far as the run is to come; from its beginning if nothing is there."""
        more = ["--resume"] if (out / "config.yaml").exists() else sets(SHORT)
        return start(out, [*more, *sets([f"train.max_steps={STEPS}"])], self.ranks, *how)

    def attempt(self, fault: Fault) -> tuple[bool, bool, list[str], str]:
        """Returns: whether the fault came; whether something was lost; what is wrong; what was said."""
        from bench.faults.campaign import difference, outcome

        out = self.folder / "-".join(map(str, fault))
        self.copy(out)
        CALLED.value, apart = 0, self.ranks > 1 and (fault.number + fault.forever) % 2 == 0
        ended = self.go_on(out, apart, fault)
        came = CALLED.value >= fault.number
        wrong, lost = complaints(ended, apart, fault.rank), []
        there = [file.parent.name for file in out.glob("checkpoints/step-*/state.json")]
        if not self.begins and max(there, default="") < f"step-{BEFORE:08d}":
            lost.append(f"of checkpoints there are {there}")
        lost += ["a whole checkpoint was set aside"] * any(out.glob("checkpoints/damaged-*"))
        if not ended.well:
            again = self.go_on(out)
            lost += [f"it cannot be gone on with: {again.said}"] * (not again.well)
        if not lost and difference(outcome(out), outcome(self.unbroken)):
            lost = ["it ends otherwise than the unbroken run"]
        shutil.rmtree(out)
        return came, bool(lost), wrong + lost, ended.said


def every_n(folder, who, function, forever, most):
    """Of a function, until the fault does not come any more."""
    victim, number, began = Victim(folder, who), 0, time.monotonic()
    found = {"function": function, "who": who, "forever": forever, "n": 0, "lost": 0, "wrong": []}
    while number < most:
        number += 1
        came, lost, wrong, said = victim.attempt(Fault(function, number, forever, victim.rank))
        if wrong:
            found["wrong"].append({"n": number, "what": wrong, "said": said[-2500:]})
        found["lost"] += lost
        found["n"] += came
        if not came:
            break
    return found | {"seconds": round(time.monotonic() - began)}


def get_ready():
    """What ranks need is imported once, by the process that they are forks of."""
    import numpy.random  # noqa: F401
    import torch._dynamo  # noqa: F401  by any optimizer; it takes seconds
    import torch.utils.serialization.config  # noqa: F401
    import tqdm

    from alexnet2gpu.faults import watch
    from alexnet2gpu.model.norm import native
    from alexnet2gpu.runs import train  # noqa: F401
    from bench.faults import campaign  # noqa: F401

    torch.set_num_threads(1)
    native.compiled(torch.float32)
    watch.EVERY = 0.1
    tqdm.tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a fork would leave behind
    gc.freeze()  # forks need not look through it


def run(folder: Path, only=tuple(FUNCTIONS), who=tuple(WHO), most=sys.maxsize) -> dict:
    """Returns: how many n there were, how often something was lost, what else was wrong; and of each
    function, rank and kind the same, which is printed as it comes."""
    spawn, found = multiprocessing.get_context("spawn"), []
    with preloaded(folder), ProcessPoolExecutor(2, spawn, get_ready) as pool:
        list(pool.map(Victim.prepare, [Victim(folder, name) for name in who]))
        tasks = [
            pool.submit(every_n, folder, name, function, forever, most)
            for function in only
            for name in who
            if (name, function) != (BEGINNING, "memory")  # the same as of one gone on with
            for forever in (False, True)
            if (name, function) != (BEGINNING, "memory")  # as of a run that is gone on with
        ]
        try:
            for task in as_completed(tasks):
                found.append(task.result())
                print(json.dumps(found[-1]), flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    total = {key: sum(part[key] for part in found) for key in ("n", "lost")}
    return total | {"wrong": [part for part in found if part["wrong"]], "parts": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--who", nargs="+", choices=WHO, default=list(WHO))
    parser.add_argument("--most", type=int, default=sys.maxsize, help="of n")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), args.only, args.who, args.most)
    wrong = sum(len(part["wrong"]) for part in found["wrong"])
    print(
        f"{found['n']} calls failed, {found['lost']} lost something, {wrong} ended otherwise than they should"
    )


if __name__ == "__main__":
    main()
