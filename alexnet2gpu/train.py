"""The loop, the same in every mode: only the model's joins and what `ranks` sums over differ.

    assemble     the model of this rank and its optimizer, wired
    fit          epochs of training, each followed by an evaluation and a checkpoint
    train_epoch  the steps of one epoch, logged
    train_step   forward, loss, backward, update
"""

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from alexnet2gpu import checkpoint
from alexnet2gpu.config import Config
from alexnet2gpu.data.batches import EvaluationBatches, TrainBatches
from alexnet2gpu.evaluate import evaluate
from alexnet2gpu.memory import report
from alexnet2gpu.memory.measure import StepMemory
from alexnet2gpu.memory.predict import predict
from alexnet2gpu.model import AlexNet
from alexnet2gpu.optim import SGD2012, rate_of, set_rates
from alexnet2gpu.precision import computing_in
from alexnet2gpu.ranks import Ranks
from alexnet2gpu.run import Run


@dataclass
class Training:
    """The parts of a run, as launch/train.py wires them, and how far it has come."""

    config: Config
    ranks: Ranks
    run: Run
    model: AlexNet
    replicated: nn.Module  # the model, with DDP around it where there are replicas
    optimizer: SGD2012
    batches: TrainBatches
    test: EvaluationBatches
    step: int = 0  # steps done, before a resume too
    memory: list[dict] = field(default_factory=list)  # of all ranks, measured in one step

    @property
    def last(self) -> int:
        """The step to end at."""
        train = self.config.train
        return min(train.epochs * self.batches.steps, train.max_steps or sys.maxsize)


def check_batch(batch: int, replicas: int, images: int) -> None:
    """Raises: ValueError if the global batch does not suit the replicas or the images."""
    if batch % replicas:
        raise ValueError(
            f"train.batch {batch} does not divide by {replicas} replicas: make it a multiple"
        )
    if batch > images:
        raise ValueError(
            f"train.batch {batch} is more than the {images} training images: make it smaller"
        )


def fit(t: Training) -> dict[str, float]:
    """Train from `t.step` to `t.last`; evaluate and save after every epoch.

    Returns: the last evaluation's figures.
    """
    errors = {}
    while t.step < t.last:
        epoch = t.step // t.batches.steps + 1
        train_epoch(t, epoch)
        errors = evaluate(t.model, t.test, t.ranks, t.config.train.precision)
        t.run.log(step=t.step, epoch=epoch, **errors)
        state = {"step": t.step, **checkpoint.identity(t.config, t.batches.images)}
        checkpoint.save(t.run.checkpoints, state, t.model, t.optimizer, t.ranks)
        if t.run.writes:
            checkpoint.prune(t.run.checkpoints, t.config.train.keep)
        if t.run.writes:
            tqdm.write(
                f"epoch {epoch}/{t.config.train.epochs}: test loss {errors['test_loss']:.4f}, "
                f"top-1 error {errors['top1_error']:.2%}, top-5 error {errors['top5_error']:.2%}"
            )
    return errors or evaluate(t.model, t.test, t.ranks, t.config.train.precision)


def train_epoch(t: Training, epoch: int) -> None:
    """Do the steps of `epoch` (from 1) that are still to do, log them, and measure memory once."""
    train = t.config.train
    set_rates(t.optimizer, t.config.optim.schedule, epoch)
    first = t.step % t.batches.steps
    end = min(t.step - first + t.batches.steps, t.last)
    bar = tqdm(total=t.batches.steps, initial=first, desc=f"epoch {epoch}/{train.epochs}",
               disable=not t.run.writes, leave=False, dynamic_ncols=True,
               mininterval=0.5 if sys.stderr.isatty() else 10)
    sums, steps, since = 0, 0, time.perf_counter()
    batches = itertools.islice(t.batches.epoch(epoch, first), end - t.step)
    for number, (images, labels) in enumerate(batches):
        t.model.seed_dropout(train.seed, t.ranks.grid.replica, t.step)
        step = partial(train_step, t.replicated, t.optimizer, images, labels, train.precision)
        if not t.memory and (number == 1 or t.step + 1 == t.last):  # DDP settles after step 0
            step = partial(measured, t, step, images, labels)
        sums, steps = sums + step(), steps + 1
        t.step += 1
        bar.update()
        if t.step % train.log_every == 0 or t.step == end:
            bar.set_postfix_str(_log(t, epoch, sums, steps, since))
            sums, steps, since = 0, 0, time.perf_counter()
    bar.close()


def _log(t, epoch, sums, steps, since):
    """Log the means over `steps` of loss and error from their sums (2,); returns them as text."""
    mean = t.ranks.sum_over_replicas(sums) / (steps * t.ranks.grid.replicas)
    loss, error = mean.tolist()  # waits for the GPU: the clock is read after it
    speed = steps * t.config.train.batch / (time.perf_counter() - since)
    lr = rate_of(t.config.optim.schedule, epoch, "", "weights")
    t.run.log(step=t.step, epoch=epoch, loss=loss, error=error, lr=lr, images_per_second=speed)
    peaks = "|".join(f"{rank['measured']['peak'] / report.MIB:.0f}" for rank in t.memory)
    return f"loss {loss:.4f}, error {error:.1%}, {speed:.0f} images/s, peak {peaks or '?'} MiB"


def train_step(
    model: nn.Module, optimizer: SGD2012, images: Tensor, labels: Tensor, precision: str
) -> Tensor:
    """One update from the images (B, C, H, W) and labels (B,) of this replica.

    Returns: (2,) mean loss and share of wrong answers before the update, on the device.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    with computing_in(precision, images.device):
        logits = model(images)  # (B, classes)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()
    wrong = (logits.detach().argmax(1) != labels).to(loss.dtype).mean()
    return torch.stack([loss.detach(), wrong])


def measured(t: Training, step: Callable[[], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Carry out `step` while counting what this rank holds and sends.

    Leaves the figures of all ranks in `t.memory` and in memory.json. Returns: what `step` returns.
    """
    memory = StepMemory(t.model, t.replicated, t.optimizer, (images, labels))
    grid, on_gpu = t.ranks.grid, t.ranks.device.type == "cuda"
    expected = predict(t.config, len(grid.towers), grid.span, grid.replicas, on_gpu)
    figures, rank = report.measure(step, memory, t.ranks, t.config, expected)
    t.memory = t.ranks.gather(rank)
    t.run.write_memory(report.document(t.config, t.memory))
    return figures
