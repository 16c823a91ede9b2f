"""A run, from where its plan starts it to its end."""

import time

from alexnet2gpu.faults.signals import Stop
from alexnet2gpu.faults.watch import Watch
from alexnet2gpu.memory import report
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.runs.checkpoints import resume
from alexnet2gpu.runs.checkpoints.saver import Saver
from alexnet2gpu.runs.folder import Run
from alexnet2gpu.runs.loop import Loop
from alexnet2gpu.runs.plan import Plan


def train(plan: Plan, ranks: Ranks, run: Run, stop: Stop, watch: Watch) -> int:
    """Do what is planned, on every rank. Returns: the signal that ended the run, 0 if it is done.

    A function of its own, since model and DDP must be gone when the ranks end (ranks/groups.py).

    Raises: as Loop.fit.
    """
    resume.check_agreement(ranks.gather(plan.start.progress.step))
    loop = Loop(plan, ranks, run, stop, watch)
    run.start(plan.config, plan.start.progress, plan.start.damaged)
    attempt = ranks.gather(f"{time.time_ns():x}")[0]  # now all ranks find the run, or say so
    run.check_seen()
    run.say(*plan.start.remarks)
    about = resume.about(plan.config, plan.images)
    with Saver(run, plan.grid, plan.config, about, attempt, watch.tick) as loop.saver:
        loop.fit()
    run.say(*_last_words(loop))
    return 0 if loop.done else loop.stopped


def _last_words(loop):
    """What a user should know at the end, a line each."""
    p, folder = loop.progress, loop.run.folder
    said = [report.table(loop.memory)] if loop.memory else []
    if not loop.done:
        way_out = f"go on with --out {folder} --resume"
        return [*said, f"stopped after step {p.step}, which is saved: {way_out}"]
    top1, top5 = (1 - p.evaluation[f"{name}_error"] for name in ("top1", "top5"))
    accuracy = f"test accuracy {top1:.2%} (top-5 {top5:.2%}) after {p.step} steps"
    return [*said, accuracy, f"config, metrics, memory and checkpoints: {folder}"]
