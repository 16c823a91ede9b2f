"""The types that a network computes in:

    train.precision   weights and velocity   activations                          update
    float32           float32                float32                              float32
    bfloat16          float32                bfloat16 by autocast, loss float32   float32
    float16           float32                float16 by autocast, loss float32    float32: loss_scale.py
    float64           float64                float64, for proofs of equality      float64

On GPUs, products of float32 are of factors rounded to TF32, in convolutions and in fully connected layers
alike, unless `train.tf32` is false: then they are of float32 in both.
"""

import torch
from torch import nn

from alexnet2gpu.config.keys import Train
from alexnet2gpu.model.device import set_tf32

NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def weight_dtype(precision: str) -> torch.dtype:
    """The type of weights, velocity and input images."""
    return torch.float64 if precision == "float64" else torch.float32


def activation_dtype(precision: str) -> torch.dtype:
    """The type of what layers give."""
    return NARROW.get(precision, weight_dtype(precision))


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """A context for forward passes."""
    return torch.autocast(device.type, NARROW.get(precision, torch.bfloat16), enabled=precision in NARROW)


def ready(model: nn.Module, train: Train, device: torch.device) -> nn.Module:
    """The model on its device, in the type of its weights, for arithmetic as `train` has it. Raises:
    ValueError if a GPU has no such arithmetic."""
    bfloat16 = device.type == "cuda" and train.precision == "bfloat16"
    if bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"train.precision bfloat16: {name} cannot compute in it: take float16 or float32")
    set_tf32(train.tf32)
    return model.to(device, weight_dtype(train.precision))
