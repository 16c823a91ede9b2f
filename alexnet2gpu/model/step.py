"""A training step, the same in every mode: forward, loss, backward, update. Types are in precision.py.

With `train.accumulate` it is in so many passes, each over a part of the batch: activations are those of a
part, gradients add up. The update is the same, up to rounding and to the masks that dropout draws.

With `optim.fc_updates` only the fully connected stages are in passes, and each pass updates them: the
variable batch of 2014 (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", section
4.2). Convolutions get one update, of the mean gradient of all images, as each pass has found it.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet2gpu.config.keys import Config
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.model.precision import computing_in


class How(NamedTuple):
    """How a step is done. `passes` and `fc_updates` divide the batch; at least one of them is 1."""

    precision: str = "float32"
    classes: int | None = None  # outputs beyond so many are no answers; the loss is over all
    passes: int = 1
    fc_updates: int = 1
    below: int = 0  # so many stages come before the fully connected ones


def how_of(config: Config) -> How:
    """As a config has it."""
    train, below = config.train, config.model.convolutional
    return How(train.precision, config.data.classes, train.accumulate, config.optim.fc_updates, below)


def train_step(
    model: nn.Module, optimizer: SGD2012, images: Tensor, labels: Tensor, how: How = How()
) -> Tensor:
    """One update from the images (B, C, H, W), of which the hybrid has a part, and labels (B,) of this
    replica; of fully connected stages perhaps several.

    Returns: (2,) mean loss and share of wrong answers before the update, on the device.
    """
    model.train()
    optimizer.zero_grad(set_to_none=how.passes == 1)  # else they stay where they are: in DDP's buckets
    if how.fc_updates > 1:
        return _variable_batch(model, optimizer, images, labels, how)
    figures = 0
    for number, (x, y) in enumerate(zip(images.chunk(how.passes), labels.chunk(how.passes)), start=1):
        alone = getattr(model, "no_sync", nullcontext)  # no other rank's gradients yet
        with alone() if number < how.passes else nullcontext():
            with computing_in(how.precision, x.device):
                logits = model(x)  # (B, outputs)
            loss = _loss(logits, y) / how.passes
            optimizer.backward(loss)
        figures = figures + torch.stack([loss.detach(), _wrong(logits, y, how.classes) / how.passes])
    optimizer.halt_unless_finite(figures[0])
    optimizer.step()
    return figures


def _variable_batch(model, optimizer, images, labels, how):
    with computing_in(how.precision, images.device):
        read = model(images, slice(how.below))  # (B, F), by the first fully connected layer
    figures, gradients = 0, []
    for x, y in zip(read.detach().chunk(how.fc_updates), labels.chunk(how.fc_updates)):
        with computing_in(how.precision, x.device):
            logits = model(x.requires_grad_(), slice(how.below, None))
        loss = _loss(logits, y)
        optimizer.backward(loss)
        figures = figures + torch.stack([loss.detach(), _wrong(logits, y, how.classes)]) / how.fc_updates
        optimizer.halt_unless_finite(loss)
        optimizer.step()  # of what has gradients
        optimizer.zero_grad()
        gradients.append(x.grad)
    read.backward(torch.cat(gradients) / how.fc_updates)
    optimizer.step()
    return figures


def _loss(logits, labels):
    """The mean, in float32 at least."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


def _wrong(logits, labels, classes):
    """The share of wrong answers."""
    wrong = logits.detach()[:, :classes].argmax(1) != labels
    return wrong.to(torch.promote_types(logits.dtype, torch.float32)).mean()
