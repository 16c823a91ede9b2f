"""The loop, the same in every mode: only the model's joins and what `ranks` sums over differ.

fit           epochs of training, each followed by an evaluation and a checkpoint
train_epoch   the steps (model/step.py) of one epoch, logged
ask           after each step: has anybody been told to stop, is a checkpoint due?
"""

import itertools
import math
import sys
import time
from dataclasses import replace
from functools import partial

import torch
from tqdm import tqdm

from alexnet2gpu.data.batches import EvaluationBatches, TrainBatches
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.faults.mistakes import one_line
from alexnet2gpu.faults.screen import progress_bar
from alexnet2gpu.faults.signals import Stop
from alexnet2gpu.faults.watch import Watch
from alexnet2gpu.memory import report
from alexnet2gpu.model.optim import rate_of, set_rates
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.assemble import assemble, graph_of
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.runs import nonfinite
from alexnet2gpu.runs.checkpoints.format import Best, Evaluation
from alexnet2gpu.runs.checkpoints.saver import Saver
from alexnet2gpu.runs.checkpoints.towers import restore
from alexnet2gpu.runs.evaluate import collapse, evaluate, mean_errors, words
from alexnet2gpu.runs.folder import Run
from alexnet2gpu.runs.plan import Plan


class Loop:
    """A run on one rank: its parts, wired, and how far it has come."""

    def __init__(self, plan: Plan, ranks: Ranks, run: Run, stop: Stop, watch: Watch, saver: Saver):
        self.saver, self.config, grid = saver, plan.config, plan.grid
        self.ranks, self.run, self.stop, self.watch = ranks, run, stop, watch
        self.parts = assemble(plan.config, ranks)
        self.graphed = graph_of(self.parts, plan.config, ranks)
        if plan.start.towers:
            restore(plan.start.towers, self.parts.model, self.parts.optimizer)
            plan.start.towers = None  # they are as large as the model
        if self.parts.optimizer.loss_scale and plan.start.progress.loss_scale:
            self.parts.optimizer.loss_scale = plan.start.progress.loss_scale
        prepare = Preparation(plan.images, plan.config, ranks.device, grid.local_world)
        self.batches = TrainBatches(plan.images, plan.config, prepare, grid)
        self.test = EvaluationBatches(plan.test, prepare, self.batches.share, grid)
        self.progress = plan.start.progress
        self.saved, self.saved_at = replace(self.progress), time.monotonic()  # when it began
        self.recent = []  # (2,) loss and error of steps that are not yet in `progress`, on the device
        self.memory = []  # of all ranks, measured in one step: entries of memory.json
        self.stopped = 0  # the signal to stop at, agreed upon by all ranks

    @property
    def last(self) -> int:
        """The step to end at."""
        train = self.config.train
        return min(train.epochs * self.batches.steps, train.max_steps or sys.maxsize)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.progress.step >= self.last and self.progress.evaluation is not None

    def fit(self) -> None:
        """Train to step `last`, or until told to stop; evaluate after every epoch, and save. Raises:
        FloatingPointError if a loss is not finite; ValueError if a file cannot be read or written."""
        p = self.progress
        try:
            self.batches.prepare.keep(self.batches.images, self.test.images)
            while not self.stopped and not self.done:
                epoch_ended = p.step >= self.last or (p.step > 0 and p.step % self.batches.steps == 0)
                if epoch_ended and p.evaluation is None:
                    self.evaluate_epoch()
                else:
                    self.train_epoch()
            self.save()
            self.run.writer.wait()
            # which also waits for all: torchrun ends all ranks when one has ended after a signal
            if any(self.ranks.gather(self.run.is_missing())):
                self.saved = None
                self.save()
                self.run.writer.wait()
                self.ranks.wait()
        except (OSError, ValueError) as error:
            way_out = f"mend it, and go on from the newest checkpoint with --out {self.run.folder} --resume"
            raise ValueError(f"after step {p.step}: {one_line(error)}: {way_out}") from error

    def evaluate_epoch(self) -> None:
        """Evaluate, save and log, unless told to stop."""
        p, train = self.progress, self.config.train
        sums = evaluate(self.parts.model, self.test, self.ranks, train.precision, lambda: self.ask()[0])
        if sums is None:
            return
        figures = mean_errors(sums)
        loss, top1 = figures["test_loss"], figures["top1_error"]
        if not math.isfinite(loss):
            self._fail(f"after step {p.step}: the test loss is {loss}")
        epoch = -(-p.step // self.batches.steps)
        p.evaluation = Evaluation(epoch, **figures)
        if p.best is None or top1 < p.best.top1_error:
            p.best = Best(p.step, top1)
        self.save()
        self.run.log(step=p.step, **p.evaluation.figures())
        if self.run.writes:
            said = f"epoch {epoch}/{train.epochs}: test loss {loss:.4f}, {words(figures)}"
            tqdm.write("\n".join([said, *collapse(sums, self.test.images.names)]))

    def train_epoch(self) -> None:
        """Do the steps of an epoch that are still to do, until told to stop; log them."""
        train, p = self.config.train, self.progress
        epoch, first = p.step // self.batches.steps + 1, p.step % self.batches.steps
        set_rates(self.parts.optimizer, self.config.optim.schedule, epoch)
        end = min(p.step - first + self.batches.steps, self.last)
        title = f"epoch {epoch}/{train.epochs}"
        bar = progress_bar(self.batches.steps, first, title, disable=not self.run.writes)
        steps, since = 0, time.perf_counter()
        batches = itertools.islice(self.batches.epoch(epoch, first), end - p.step)
        for number, (images, labels) in enumerate(batches):
            to_measure = number == 1 or p.step + 1 == self.last  # in the first DDP settles
            self.recent.append(self._step(images, labels, to_measure and not self.memory))
            p.step, p.evaluation, steps = p.step + 1, None, steps + 1
            bar.update()
            if p.step % train.log_every == 0 or p.step == end:
                bar.set_postfix_str(self._log(epoch, steps, since))
                steps, since = 0, time.perf_counter()
            stop, due = self.ask()
            if stop:
                break
            if due:
                self.save()
        bar.close()

    def _step(self, images, labels, to_measure):
        """What `train_step` gives. If it is `to_measure`, what all ranks hold and send in it is left in
        `memory` and memory.json."""
        self._seed_dropout(self.progress.step)
        _, replicated, optimizer = self.parts
        step = partial(train_step, replicated, optimizer, images, labels, how_of(self.config))
        if not to_measure:
            return self.graphed(images, labels) if self.graphed else step()
        figures, entry, _ = report.measure(step, self.parts, (images, labels), self.config, self.ranks)
        self.memory = self.ranks.gather(entry)
        self.run.write_memory(report.document(self.config, self.memory))
        return figures

    def _seed_dropout(self, step):
        self.parts.model.seed_dropout(self.config.train.seed, self.ranks.grid.replica, step)

    def ask(self) -> tuple[int, int]:
        """Of all ranks, after each step: the signal to stop at, if one has come, and whether it is time for a
        checkpoint."""
        self.watch.tick()
        self.run.writer.check()
        minutes, now = self.config.train.save_minutes, time.monotonic()
        due = self.run.writes and minutes is not None and now - self.saved_at > 60 * minutes
        if due:
            self.saved_at = now  # so that it is said once
        self.stopped, due = self.ranks.largest_a_call_ago([self.stop.signal, int(due)])
        return self.stopped, due

    def save(self) -> None:
        """Begin to save where the run is, if that is not done yet."""
        self._collect()
        model, _, optimizer = self.parts
        if self.saved == self.progress:
            return
        if found := nonfinite.first_weights_not_finite(model, self.ranks):
            self._fail(f"after step {self.progress.step}: what first is not finite is {found}")
        self.saver.save(self.progress, model, optimizer)
        self.saved, self.saved_at = replace(self.progress), time.monotonic()

    def _collect(self):
        """Put the figures of the last steps into `progress`, means over the global batch. Raises:
        FloatingPointError if a loss is not finite."""
        if not self.recent:
            return
        sums = self.ranks.sum_over_replicas(torch.stack(self.recent))  # (steps, 2)
        means = (sums / self.ranks.grid.replicas).tolist()  # waits for the GPU
        for step, (loss, _) in enumerate(means, self.progress.step - len(means)):
            if not math.isfinite(loss):
                self._give_up(step, loss)
        self.progress.recent = (*self.progress.recent, *map(tuple, means))
        self.progress.loss_scale = self.parts.optimizer.loss_scale
        self.recent.clear()

    def _give_up(self, step, loss):
        """Raises: FloatingPointError, of the loss after `step` steps."""
        epoch, first = divmod(step, self.batches.steps)
        images, _ = next(self.batches.epoch(epoch + 1, first))
        self._seed_dropout(step)
        how = self.ranks, self.config.train.precision
        found = nonfinite.first_not_finite(self.parts.model, images, *how)
        self._fail(f"step {step + 1}: the loss is {loss}; what first is not finite is {found}")

    def _fail(self, said):
        """Raises: FloatingPointError, with the checkpoint to go on from, once it is whole."""
        self.run.writer.wait()
        self.ranks.wait()  # whoever reports ends all
        raise FloatingPointError(f"{said}: {nonfinite.way_out(self.run.folder, self.saved.step)}")

    def _log(self, epoch, steps, since):
        """Log the means of loss and error over the steps since the last line; returns them as text."""
        self._collect()
        p = self.progress
        loss, error = (sum(column) / len(p.recent) for column in zip(*p.recent))
        p.recent = ()
        speed = steps * self.config.train.batch / (time.perf_counter() - since)  # of this process's steps
        lr = rate_of(self.config.optim.schedule, epoch, "", "weights")
        more = {"loss_scale": p.loss_scale[0]} if p.loss_scale else {}
        self.run.log(step=p.step, epoch=epoch, loss=loss, error=error, lr=lr, images_per_second=speed, **more)
        peaks = "|".join(f"{rank['measured']['peak'] / report.MIB:.0f}" for rank in self.memory)
        return f"{speed:.0f} images/s, loss {loss:.4f}, error {error:.1%}, peak {peaks or '?'} MiB"
