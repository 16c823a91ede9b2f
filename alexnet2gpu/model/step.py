"""A training step, the same in every mode: forward, loss, backward, update; and its precision.

    train.precision   weights and velocity   activations                          update
    float32           float32                float32                              float32
    bfloat16          float32                bfloat16 by autocast, loss float32   float32
    float64           float64                float64, for proofs of equality      float64

On GPUs, products of float32 are of factors rounded to TF32, in convolutions and in fully connected layers
alike, unless `train.tf32` is false: then they are of float32 in both.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet2gpu.config.keys import Train
from alexnet2gpu.model.device import set_tf32
from alexnet2gpu.model.optim import SGD2012


def weight_dtype(precision: str) -> torch.dtype:
    """The type of weights, velocity and input images."""
    return torch.float64 if precision == "float64" else torch.float32


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """A context for forward passes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def ready(model: nn.Module, train: Train, device: torch.device) -> nn.Module:
    """The model on its device, in the type of its weights, for arithmetic as `train` has it. Raises:
    ValueError if a GPU has no such arithmetic."""
    narrow = device.type == "cuda" and train.precision == "bfloat16"
    if narrow and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"train.precision bfloat16: {name} cannot compute in it: take float32")
    set_tf32(train.tf32)
    return model.to(device, weight_dtype(train.precision))


def train_step(
    model: nn.Module,
    optimizer: SGD2012,
    images: Tensor,
    labels: Tensor,
    precision: str,
    classes: int | None = None,
) -> Tensor:
    """One update from the images (B, C, H, W) and labels (B,) of this replica. With `classes`, outputs beyond
    so many are no answers; the loss is over all.

    Returns: (2,) mean loss and share of wrong answers before the update, on the device.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    with computing_in(precision, images.device):
        logits = model(images)  # (B, outputs)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.halt_unless_finite(loss)
    optimizer.step()
    wrong = (logits.detach()[:, :classes].argmax(1) != labels).to(loss.dtype).mean()
    return torch.stack([loss.detach(), wrong])
