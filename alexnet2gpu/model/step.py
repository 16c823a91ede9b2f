"""A training step, the same in every mode: forward, loss, backward, update. Types are in precision.py.

With `train.accumulate` it is in so many passes, each over a part of the batch: activations are those of a
part, gradients add up. The update is the same, up to rounding and to the masks that dropout draws.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet2gpu.config.keys import Config
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.model.precision import computing_in


def how_of(config: Config) -> tuple[str, int, int]:
    """What `train_step` takes from a config, after the batch."""
    return config.train.precision, config.data.classes, config.train.accumulate


def train_step(
    model: nn.Module,
    optimizer: SGD2012,
    images: Tensor,
    labels: Tensor,
    precision: str,
    classes: int | None = None,
    passes: int = 1,
) -> Tensor:
    """One update from the images (B, C, H, W) and labels (B,) of this replica, in so many `passes`, which
    divide B. With `classes`, outputs beyond so many are no answers; the loss is over all.

    Returns: (2,) mean loss and share of wrong answers before the update, on the device.
    """
    model.train()
    optimizer.zero_grad(set_to_none=passes == 1)  # else they stay where they are: in DDP's buckets
    figures = 0
    for number, (x, y) in enumerate(zip(images.chunk(passes), labels.chunk(passes)), start=1):
        alone = getattr(model, "no_sync", nullcontext)  # DDP: no other replica's gradients yet
        with alone() if number < passes else nullcontext():
            with computing_in(precision, x.device):
                logits = model(x)  # (B, outputs)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, y) / passes
            optimizer.backward(loss)
        wrong = (logits.detach()[:, :classes].argmax(1) != y).to(loss.dtype).mean() / passes
        figures = figures + torch.stack([loss.detach(), wrong])
    optimizer.halt_unless_finite(figures[0])
    optimizer.step()
    return figures
