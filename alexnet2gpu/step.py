"""A training step, the same in every mode: forward, loss, backward, update."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet2gpu.optim import SGD2012
from alexnet2gpu.precision import computing_in


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
    optimizer.halt_unless_finite(loss)
    optimizer.step()
    wrong = (logits.detach().argmax(1) != labels).to(loss.dtype).mean()
    return torch.stack([loss.detach(), wrong])
