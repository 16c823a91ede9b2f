"""The parts of a run, wired, and how far it has come: what the loop (train.py) works on."""

import sys
import time
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from alexnet2gpu.checkpoint import Progress
from alexnet2gpu.config.keys import Config
from alexnet2gpu.data.batches import EvaluationBatches, TrainBatches
from alexnet2gpu.faults.signals import Stop
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.run import Run
from alexnet2gpu.saver import Saver
from alexnet2gpu.faults.watch import Watch


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
