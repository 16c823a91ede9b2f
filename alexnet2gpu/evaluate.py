"""Top-1 and top-5 error on held-out images, from one view of each or the mean of ten.

Every rank takes part: in a split no rank can run the network alone.

What is averaged over views, and over networks, are probabilities; so it was in 2012 for both.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet2gpu.data.batches import EvaluationBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.step import computing_in
from alexnet2gpu.ranks.groups import Ranks


def check_images(images: Images, replicas: int) -> None:
    """Raises: ValueError if there are not enough test images for every replica to have one."""
    if len(images) < replicas:
        raise ValueError(
            f"{len(images)} test images for {replicas} replicas: each needs one at least: take "
            "fewer processes"
        )


def evaluate(
    model: AlexNet, batches: EvaluationBatches, ranks: Ranks, precision: str,
    told_to_stop: Callable[[], int] = lambda: 0,
) -> dict[str, float] | None:  # fmt: skip
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
    return torch.stack(
        [loss, (~best[:, 0]).sum(), (~best.any(1)).sum(), loss.new_tensor(len(labels))]
    )


def mean_errors(sums: Tensor, ranks: Ranks) -> dict[str, float]:
    """What `errors` gave, (4,) of each replica's own images -> means over those of all."""
    loss, top1, top5, count = ranks.sum_over_replicas(sums).tolist()
    return {"test_loss": loss / count, "top1_error": top1 / count, "top5_error": top5 / count}
