"""What `train.precision` means.

precision   weights and velocity   activations                          update
float32     float32                float32                              float32
bfloat16    float32                bfloat16 by autocast, loss float32   float32
float64     float64                float64, for proofs of equality      float64

On GPUs torch computes float32 convolutions in TF32 unless it is told otherwise; so does this.
"""

import torch


def weight_dtype(precision: str) -> torch.dtype:
    """The type of weights, velocity and input images."""
    return torch.float64 if precision == "float64" else torch.float32


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """A context for forward passes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
