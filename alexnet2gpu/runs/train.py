"""A run, from where its plan starts it to its end."""

import time

import torch

from alexnet2gpu.config.keys import Train
from alexnet2gpu.faults.signals import Stop
from alexnet2gpu.faults.watch import Watch
from alexnet2gpu.memory import report
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.runs import agreement
from alexnet2gpu.runs.checkpoints import resume
from alexnet2gpu.runs.checkpoints.saver import Saver
from alexnet2gpu.runs.folder import Run
from alexnet2gpu.runs.loop import Loop
from alexnet2gpu.runs.plan import Plan


def first_line(plan: Plan, ranks: Ranks) -> str:
    """What runs where: ranks, devices, how they talk, precision, images, classes."""
    config, classes = plan.config, plan.images.classes
    outputs = config.model.last.out
    spare = f" ({outputs} outputs, for {config.model.towers} towers)" if outputs != classes else ""
    images = f"{len(plan.images):,} images of {classes} classes{spare}, {len(plan.test):,} to test"
    return f"{ranks.said()}; {arithmetic(config.train, ranks.device)}; {images}"


def arithmetic(train: Train, device: torch.device) -> str:
    """What computes, as model/step.py arranges it, in words."""
    float32_on_gpu = device.type == "cuda" and train.precision == "float32"
    return train.precision + (", products in TF32" if float32_on_gpu and train.tf32 else "")


def train(plan: Plan, ranks: Ranks, run: Run, stop: Stop, watch: Watch) -> int:
    """Do what is planned, on every rank; raises as Loop.fit does. A function of its own: model and DDP must
    be gone when the ranks end (ranks/groups.py). Returns: the signal that ended the run, or 0."""
    run.say(first_line(plan, ranks))
    made = agreement.versions() | {"kernels": agreement.kernels(plan.config, ranks.device)}
    about = {**resume.about(plan.config, plan.learned.task), "versions": made}
    word = ranks.gather(f"{time.time_ns():x}")[0]  # of this start
    saver = Saver(run, plan.grid, plan.config, about, word, plan.learned.mean_file())
    loop = Loop(plan, ranks, run, stop, watch, saver)
    run.start(plan.config, plan.start.progress, plan.start.damaged, word, plan.learned)
    ranks.wait()  # now all find the run, or say so
    run.check_seen(word)
    run.say(*plan.images.remarks, *plan.start.remarks, *resume.changed_versions(plan.start.versions, made))
    loop.fit()
    if loop.memory:
        run.say(report.table(loop.memory))
    step, evaluation = loop.progress.step, loop.progress.evaluation
    if not loop.done:
        run.say(f"stopped after step {step}, which is saved: go on with --out {run.folder} --resume")
        return loop.stopped
    top5 = "" if evaluation.top5_error is None else f" (top-5 {1 - evaluation.top5_error:.2%})"
    run.say(f"test accuracy {1 - evaluation.top1_error:.2%}{top5} after {step} steps")
    run.say(f"config, metrics, memory and checkpoints: {run.folder}")
    return 0
