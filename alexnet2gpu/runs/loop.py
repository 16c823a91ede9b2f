"""The loop, the same in every mode: only the model's joins and what `ranks` sums over differ.

    fit          epochs of training, each followed by an evaluation and a checkpoint
    train_epoch  the steps (step.py) of one epoch, logged
    ask          after each step: has anybody been told to stop, is it time for a checkpoint?

They work on a `Training`: the parts of a run, and how far it has come.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from alexnet2gpu.config.keys import Config
from alexnet2gpu.data.batches import EvaluationBatches, TrainBatches
from alexnet2gpu.faults.signals import Stop
from alexnet2gpu.faults.watch import Watch
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.runs.checkpoints.format import Progress
from alexnet2gpu.runs.checkpoints.saver import Saver
from alexnet2gpu.runs.folder import Run
from alexnet2gpu.runs import nonfinite
from alexnet2gpu.runs.evaluate import evaluate
from alexnet2gpu.memory import report
from alexnet2gpu.memory.measured.step import StepMemory
from alexnet2gpu.memory.predicted.step import predict_step
from alexnet2gpu.faults.mistakes import one_line
from alexnet2gpu.model.optim import rate_of, set_rates
from alexnet2gpu.model.step import train_step


@dataclass
class Training:
    """Made by launch/train.py, one on each rank."""

    config: Config
    ranks: Ranks
    watch: Watch
    stop: Stop
    run: Run
    saver: Saver
    model: AlexNet
    replicated: nn.Module  # the model, with DDP around it where there are replicas
    optimizer: SGD2012
    batches: TrainBatches
    test: EvaluationBatches
    progress: Progress
    memory: list[dict] = field(default_factory=list)  # of all ranks, measured in one step
    figures: list[Tensor] = field(default_factory=list)  # (2,) of steps not yet in `progress`
    stopped: int = 0  # the signal that ended the run, agreed upon by all ranks

    def __post_init__(self):
        self.saved, self.saved_at = replace(self.progress), time.monotonic()

    @property
    def last(self) -> int:
        """The step to end at."""
        train = self.config.train
        return min(train.epochs * self.batches.steps, train.max_steps or sys.maxsize)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.progress.step >= self.last and self.progress.evaluation is not None

    @property
    def to_evaluate(self) -> bool:
        """Whether an epoch, or the run, has ended without its evaluation."""
        p = self.progress
        ended = p.step >= self.last or (p.step > 0 and p.step % self.batches.steps == 0)
        return ended and p.evaluation is None


def fit(t: Training) -> None:
    """Train to step `t.last`, or until told to stop; evaluate after every epoch, and save.

    Raises: FloatingPointError if a loss is not finite; ValueError if something cannot be read or
        written any more.
    """
    try:
        while not t.stopped and not t.done:
            (evaluate_epoch if t.to_evaluate else train_epoch)(t)
        save(t)
        t.saver.wait()
        t.ranks.wait()  # torchrun ends all ranks when one has ended after a signal
    except (OSError, ValueError) as error:
        raise ValueError(
            f"after step {t.progress.step}: {one_line(error)}: mend it, and go on from the newest "
            f"checkpoint with --out {t.run.folder} --resume"
        ) from error


def evaluate_epoch(t: Training) -> None:
    """Evaluate, save and log, unless told to stop."""
    p, train = t.progress, t.config.train
    figures = evaluate(t.model, t.test, t.ranks, train.precision, lambda: ask(t)[0])
    if figures is None:
        return
    if not math.isfinite(figures["test_loss"]):
        raise FloatingPointError(f"after step {p.step}: the test loss is {figures['test_loss']}: "
                                 f"{_last_good(t)}")  # fmt: skip
    p.evaluation = {"epoch": -(-p.step // t.batches.steps), **figures}
    if p.best is None or figures["top1_error"] < p.best["top1_error"]:
        p.best = {"step": p.step, "top1_error": figures["top1_error"]}
    save(t)
    t.run.log_evaluation(p)
    if t.run.writes:
        tqdm.write(
            f"epoch {p.evaluation['epoch']}/{train.epochs}: test loss {figures['test_loss']:.4f}, "
            f"top-1 error {figures['top1_error']:.2%}, top-5 error {figures['top5_error']:.2%}"
        )


def train_epoch(t: Training) -> None:
    """Do the steps of an epoch that are still to do, until told to stop; log them, and measure
    memory once."""
    train, p = t.config.train, t.progress
    epoch, first = p.step // t.batches.steps + 1, p.step % t.batches.steps
    set_rates(t.optimizer, t.config.optim.schedule, epoch)
    end = min(p.step - first + t.batches.steps, t.last)
    bar = tqdm(total=t.batches.steps, initial=first, desc=f"epoch {epoch}/{train.epochs}",
               disable=not t.run.writes, leave=False, dynamic_ncols=True,
               mininterval=0.5 if sys.stderr.isatty() else 10)  # fmt: skip
    steps, since = 0, time.perf_counter()
    batches = itertools.islice(t.batches.epoch(epoch, first), end - p.step)
    for number, (images, labels) in enumerate(batches):
        t.model.seed_dropout(train.seed, t.ranks.grid.replica, p.step)
        step = partial(train_step, t.replicated, t.optimizer, images, labels, train.precision)
        if not t.memory and (number == 1 or p.step + 1 == t.last):  # DDP settles after step 0
            step = partial(measured, t, step, images, labels)
        t.figures.append(step())
        p.step, p.evaluation, steps = p.step + 1, None, steps + 1
        bar.update()
        if p.step % train.log_every == 0 or p.step == end:
            bar.set_postfix_str(_log(t, epoch, steps, since))
            steps, since = 0, time.perf_counter()
        stop, due = ask(t)
        if stop:
            break
        if due:
            save(t)
    bar.close()


def ask(t: Training) -> tuple[int, int]:
    """Of all ranks, after each step: the signal to stop at, if one has come, and whether it is
    time for a checkpoint."""
    t.watch.tick()
    t.saver.look()
    minutes, now = t.config.train.save_minutes, time.monotonic()
    due = t.run.writes and minutes is not None and now - t.saved_at > 60 * minutes
    if due:
        t.saved_at = now  # so that it is said once
    t.stopped, due = t.ranks.agree([t.stop.signal, int(due)])
    return t.stopped, due


def save(t: Training) -> None:
    """Begin to save where the run is, if that is not done yet."""
    collect(t)
    if t.saved != t.progress:
        if place := nonfinite.first_place_in_weights(t.model, t.ranks):
            raise FloatingPointError(f"after step {t.progress.step}: what first is not finite is "
                                     f"{place}: {_last_good(t)}")  # fmt: skip
        t.saver.save(t.progress, t.model, t.optimizer)
        t.saved, t.saved_at = replace(t.progress), time.monotonic()


def collect(t: Training) -> None:
    """Put the figures of the last steps into `t.progress`, means over the global batch.

    Raises: FloatingPointError if a loss is not finite.
    """
    if not t.figures:
        return
    sums = t.ranks.sum_over_replicas(torch.stack(t.figures))  # (steps, 2)
    recent = (sums / t.ranks.grid.replicas).tolist()  # waits for the GPU
    for number, (loss, _) in enumerate(recent, t.progress.step - len(recent)):
        if not math.isfinite(loss):
            _give_up(t, number, loss)
    t.progress.recent = (*t.progress.recent, *map(tuple, recent))
    t.figures.clear()


def _give_up(t, step, loss):
    """Raises: FloatingPointError, of the loss after `step` steps."""
    train, steps = t.config.train, t.batches.steps
    images, _ = next(t.batches.epoch(step // steps + 1, step % steps))
    t.model.seed_dropout(train.seed, t.ranks.grid.replica, step)
    place = nonfinite.first_place(t.model, images, t.ranks, train.precision)
    raise FloatingPointError(
        f"step {step + 1}: the loss is {loss}; what first is not finite is {place}: "
        f"{_last_good(t)}"
    )


def _last_good(t):
    """The checkpoint to go on from, in words, once it is whole."""
    t.saver.wait()
    t.ranks.wait()  # whoever reports ends all
    last = f"step {t.saved.step}, in {t.run.checkpoints}" if t.saved.step else "none yet"
    return f"last good checkpoint: {last}: go on with lower rates: --resume --set optim.schedule"


def _log(t, epoch, steps, since):
    """Log the means of loss and error over the steps since the last line; returns them as text."""
    collect(t)
    p, train = t.progress, t.config.train
    loss, error = (sum(column) / len(p.recent) for column in zip(*p.recent))
    p.recent = ()
    speed = steps * train.batch / (time.perf_counter() - since)  # of this process's steps
    lr = rate_of(t.config.optim.schedule, epoch, "", "weights")
    t.run.log(step=p.step, epoch=epoch, loss=loss, error=error, lr=lr, images_per_second=speed)
    peaks = "|".join(f"{rank['measured']['peak'] / report.MIB:.0f}" for rank in t.memory)
    return f"loss {loss:.4f}, error {error:.1%}, {speed:.0f} images/s, peak {peaks or '?'} MiB"


def measured(t: Training, step: Callable[[], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Carry out `step` while counting what this rank holds and sends.

    Leaves the figures of all ranks in `t.memory` and in memory.json. Returns: what `step` returns.
    """
    memory = StepMemory(t.model, t.replicated, t.optimizer, (images, labels))
    grid, on_gpu = t.ranks.grid, t.ranks.device.type == "cuda"
    expected = predict_step(t.config, len(grid.towers), grid.span, grid.replicas, on_gpu)
    figures, rank = report.measure(step, memory, t.ranks, t.config, expected)
    t.memory = t.ranks.gather(rank)
    t.run.write_memory(report.document(t.config, t.memory))
    return figures
