"""Top-1 and top-5 errors on held-out images, from one view of each or the mean of ten.

Every rank takes part: in a split no rank can run the network alone. What is averaged over views, and over
networks, are probabilities; so it was in 2012 for both.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet2gpu.config.keys import Config
from alexnet2gpu.data.batches import EvaluationBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.step import computing_in, ready
from alexnet2gpu.ranks.assemble import build_model
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.runs.checkpoints.towers import load_network, read_towers, restore


def check_images(images: Images, replicas: int) -> None:
    """Raises: ValueError if there are not enough test images for every replica to have one."""
    if len(images) < replicas:
        few = f"{len(images)} test images for {replicas} replicas"
        raise ValueError(f"{few}: each needs one at least: take fewer processes")


def evaluate(
    model: AlexNet, batches: EvaluationBatches, ranks: Ranks, precision: str, told_to_stop: Callable[[], int]
) -> dict[str, float] | None:
    """Mean loss and errors over all images, of which each replica sees a share; the same on every rank.
    `told_to_stop` is called equally often on all ranks, and gives the same on all.

    Returns: test_loss, top1_error and top5_error; errors are fractions of 1. None if told to stop.
    """
    sums, own = 0, log_probabilities(model, batches, precision)
    for _ in range(batches.most):
        batch = next(own, None)
        if batch is not None:  # other replicas may have one more
            sums = sums + errors(*batch)
        if told_to_stop():
            return None
    return mean_errors(sums, ranks)


@torch.no_grad()
def log_probabilities(
    model: AlexNet, batches: EvaluationBatches, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logarithms of the classes' probabilities (B, classes) in float64, averaged over the views of each of B
    images; labels (B,)."""
    model.eval()
    for views, labels in batches:
        with computing_in(precision, views.device):
            logits = model(views).double()  # (B * views, classes)
        log_p = F.log_softmax(logits, dim=1).unflatten(0, (len(labels), -1))
        yield log_p.logsumexp(1) - math.log(batches.views), labels


def errors(log_p: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (B, classes), labels (B,) -> (4,) float64, sums over the images: loss, top-1 errors,
    top-5 errors, images."""
    best = log_p.topk(min(5, log_p.shape[1])).indices == labels[:, None]  # (B, 5)
    loss = F.nll_loss(log_p, labels, reduction="sum")
    return torch.stack([loss, (~best[:, 0]).sum(), (~best.any(1)).sum(), loss.new_tensor(len(labels))])


def mean_errors(sums: Tensor, ranks: Ranks) -> dict[str, float]:
    """What `errors` gave, (4,) of each replica's own images -> means over those of all."""
    loss, top1, top5, count = ranks.sum_over_replicas(sums).tolist()
    return {"test_loss": loss / count, "top1_error": top1 / count, "top5_error": top5 / count}


class Trained(NamedTuple):
    """A trained network, in evaluation mode, and how its images are prepared."""

    config: Config
    model: AlexNet
    prepare: Preparation

    def classify(
        self, images: Images, grid: Grid = Grid(), views: int = 1, tick: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor]:
        """What `log_probabilities` gives of this replica's n images, (n, classes) and (n,), on the CPU. After
        each batch it calls `tick`."""
        train, parts = self.config.train, []
        size = max(1, train.batch // grid.replicas)
        batches = EvaluationBatches(images, self.prepare, size, grid.replica, grid.replicas, views)
        for log_p, labels in log_probabilities(self.model, batches, train.precision):
            parts.append((log_p.cpu(), labels.cpu()))
            tick()
        return tuple(map(torch.cat, zip(*parts)))


def load_trained(config: Config, checkpoint: Path, images: Images, device: torch.device) -> Trained:
    """The network of a checkpoint, all towers on one device; of the training `images` the mean counts.
    Raises: ValueError if the checkpoint is unreadable or of another network."""
    model = ready(load_network(config, checkpoint), config.train, device)
    return Trained(config, model.eval(), Preparation(images, config, device))


def check_alike(configs: Sequence[Config], checkpoints: Sequence[Path], views: int) -> None:
    """Raises: ValueError if networks do not tell the same classes apart in the same images over as many
    towers, or if ten views cannot be cropped from them."""
    tasks = [_task(config) for config in configs]
    for config, path, task in zip(configs, checkpoints, tasks):
        if task != tasks[0]:
            raise ValueError(f"{path}: cannot be averaged with {checkpoints[0]}: {task} is not {tasks[0]}")
        if views > 1 and config.data.crop is None:
            whole = f"--views {views}: {path} reads whole images (data.crop null)"
            raise ValueError(f"{whole}, so there are no corners to crop: leave --views out")


def _task(config):
    last, data = list(config.model.stages[-1].values())[-1], config.data
    outputs = f"{config.model.towers} towers, {last.out} outputs"
    return f"{outputs}, data.name {data.name}, data.dir {data.dir}, data.size {data.size}"


def average(
    networks: Sequence[tuple[Config, Path]],
    images: Images,
    test: Images,
    ranks: Ranks,
    views: int,
    tick: Callable[[], None],
) -> Iterator[tuple[dict, dict]]:
    """Evaluate one network after the other; only one is in memory at a time, and the sum of the probabilities
    of this replica's images, float64 on the CPU.

    Args:
        networks: the config of each and the directory of its checkpoint.
        images, test: training images, of which the mean is subtracted; images to classify.
        tick: called after each batch: faults/watch.py.

    Yields: the figures of `mean_errors` of each network alone, and of the mean of all so far; the same on
        every rank.
    """
    total = 0
    for number, (config, checkpoint) in enumerate(networks, 1):
        model = build_model(config, ranks)
        restore(read_towers(checkpoint, config.model, ranks.grid.towers), model)
        trained = Trained(config, model, Preparation(images, config, ranks.device, ranks.grid.local_world))
        log_p, labels = trained.classify(test, ranks.grid, views, tick)
        del model, trained
        total = total + log_p.exp()
        sums = [errors(log_p, labels), errors((total / number).log(), labels)]
        yield tuple(mean_errors(sum_.to(ranks.device), ranks) for sum_ in sums)
