"""Top-1 and top-5 error on held-out images, from one view of each or the mean of ten.

Every rank takes part: in a split no rank can run the network alone.

What is averaged over views, and over networks, are probabilities; so it was in 2012 for both.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet2gpu.config.keys import Config
from alexnet2gpu.data.batches import EvaluationBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.step import computing_in, weight_dtype
from alexnet2gpu.ranks.assemble import build_model
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.runs.checkpoints.format import read_towers, restore
from alexnet2gpu.runs.checkpoints.load import load_network


def check_images(images: Images, replicas: int) -> None:
    """Raises: ValueError if there are not enough test images for every replica to have one."""
    if len(images) < replicas:
        raise ValueError(
            f"{len(images)} test images for {replicas} replicas: each needs one at least: take "
            "fewer processes"
        )


def evaluate(
    model: AlexNet,
    batches: EvaluationBatches,
    ranks: Ranks,
    precision: str,
    told_to_stop: Callable[[], int] = lambda: 0,
) -> dict[str, float] | None:
    """Mean loss and errors over all images, the same figures on every rank; each replica sees a
    share of them.

    Args:
        told_to_stop: called equally often on all ranks, gives the same on all.

    Returns: test_loss, top1_error and top5_error; errors are fractions of 1. None if told to stop.
    """
    sums, done = 0, 0
    for log_p, labels in log_probabilities(model, batches, precision):
        sums, done = sums + errors(log_p, labels), done + 1
        if told_to_stop():
            return None
    for _ in range(done, batches.most):  # other replicas may have one more
        if told_to_stop():
            return None
    return mean_errors(sums, ranks)


@torch.no_grad()
def log_probabilities(
    model: AlexNet, batches: EvaluationBatches, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logarithms of the classes' probabilities (B, classes) in float64, averaged over the views of
    each of B images; labels (B,)."""
    model.eval()
    for views, labels in batches:
        with computing_in(precision, views.device):
            logits = model(views).double()  # (B * views, classes)
        log_p = F.log_softmax(logits, dim=1).unflatten(0, (len(labels), -1))
        yield log_p.logsumexp(1) - math.log(batches.views), labels


def errors(log_p: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (B, classes), labels (B,) -> (4,) float64, sums over the images: loss,
    top-1 errors, top-5 errors, images."""
    best = log_p.topk(min(5, log_p.shape[1])).indices == labels[:, None]  # (B, 5)
    loss = F.nll_loss(log_p, labels, reduction="sum")
    return torch.stack([loss, (~best[:, 0]).sum(), (~best.any(1)).sum(), loss.new_tensor(len(labels))])


def mean_errors(sums: Tensor, ranks: Ranks) -> dict[str, float]:
    """What `errors` gave, (4,) of each replica's own images -> means over those of all."""
    loss, top1, top5, count = ranks.sum_over_replicas(sums).tolist()
    return {"test_loss": loss / count, "top1_error": top1 / count, "top5_error": top5 / count}


class Trained(NamedTuple):
    """A trained network, all towers on one device, in evaluation mode, and how its images are
    prepared."""

    config: Config
    model: AlexNet
    prepare: Preparation


def load_trained(config: Config, checkpoint: Path, images: Images, device: torch.device) -> Trained:
    """The network of a checkpoint; of the training `images` the mean counts.

    Raises: ValueError if the checkpoint is unreadable or of another network.
    """
    model = load_network(config, checkpoint).to(device, weight_dtype(config.train.precision))
    return Trained(config, model.eval(), Preparation(images, config, device))


def probabilities(trained: Trained, images: Images) -> np.ndarray:
    """The probabilities (N, outputs) float64 of the classes for all images."""
    config, model, prepare = trained
    batches = EvaluationBatches(images, prepare, config.train.batch, 0, 1)
    parts = log_probabilities(model, batches, config.train.precision)
    return torch.cat([log_p.cpu() for log_p, _ in parts]).exp().numpy()


def check_alike(configs: Sequence[Config], checkpoints: Sequence[Path], views: int) -> None:
    """Raises: ValueError if networks do not tell the same classes apart in the same images over
    as many towers, or if ten views cannot be cropped from them."""
    for config, path in zip(configs, checkpoints):
        if _task(config) != _task(configs[0]):
            raise ValueError(
                f"{path}: cannot be averaged with {checkpoints[0]}: {_task(config)} is not "
                f"{_task(configs[0])}"
            )
        if views > 1 and config.data.crop is None:
            raise ValueError(
                f"--views {views}: {path} reads whole images (data.crop null), so there are no "
                "corners to crop: leave --views out"
            )


def _task(config):
    last, data = list(config.model.stages[-1].values())[-1], config.data
    return (
        f"{config.model.towers} towers, {last.out} outputs, data.name {data.name}, "
        f"data.dir {data.dir}, data.size {data.size}"
    )


def average(
    networks: Sequence[tuple[Config, Path]],
    images: Images,
    test: Images,
    ranks: Ranks,
    views: int,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[dict, dict]]:
    """Evaluate one network after the other; only one is in memory at a time, and the sum of the
    probabilities of this replica's images, float64 on the CPU.

    Args:
        networks: the config of each and the directory of its checkpoint.
        images: the training images, of which the mean is subtracted.
        test: the images to classify.
        tick: called after each batch: faults/watch.py.

    Yields: the figures of `mean_errors` of each network alone, and of the mean of all so far; the
        same on every rank.
    """
    total = None
    grid = ranks.grid
    for number, (config, checkpoint) in enumerate(networks, 1):
        model = build_model(config, ranks)
        restore(read_towers(checkpoint, config.model, grid.towers), model)
        prepare = Preparation(images, config, ranks.device)
        size = max(1, config.train.batch // grid.replicas)
        batches = EvaluationBatches(test, prepare, size, grid.replica, grid.replicas, views)
        parts = []
        for log_p, labels in log_probabilities(model, batches, config.train.precision):
            parts.append((log_p.cpu(), labels.cpu()))
            tick()
        log_p, labels = (torch.cat(part) for part in zip(*parts))
        total = log_p.exp() if total is None else total.add_(log_p.exp())
        sums = [errors(log_p, labels), errors((total / number).log(), labels)]
        yield tuple(mean_errors(sum_.to(ranks.device), ranks) for sum_ in sums)
        del model
