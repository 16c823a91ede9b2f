"""The update of 2012, in place:

on GPUs that have Triton, in float32   update_kernel.py
elsewhere                              the kernel of torch.optim.SGD
"""

import torch
from torch import Tensor

from alexnet2gpu.model.device import has_triton


def update(
    tensors: list[tuple[Tensor, Tensor, Tensor]], halted: Tensor, rate: float, momentum: float, decay: float
) -> None:
    """Of weights, gradients and velocities, each a row (N,): v <- momentum v - rate (decay w + g), then
    w <- w + v, unless `halted`, a number, is other than 0."""
    weights, gradients, velocities = map(list, zip(*tensors))
    if weights[0].is_cuda and weights[0].dtype == torch.float32 and has_triton():
        from alexnet2gpu.model import update_kernel  # Triton is not on every machine

        for each in tensors:
            update_kernel.update(*each, halted, rate, momentum, decay)
        return
    # torch's: v <- momentum v + (1 - dampening) (g + decay w), then w <- w - lr v. With these two it is the
    # rule, exact to 1e-16 of 1 where numbers are of float64: on the CPU, and for weights of float64.
    lr, dampening = -1.0, 1 + rate
    if momentum == 0:  # then it has no v, nor is there any need of one
        velocities, lr, dampening = [], rate, 0.0
    numbers = {"lr": lr, "dampening": dampening, "momentum": momentum, "weight_decay": decay}
    off = dict.fromkeys(("nesterov", "maximize", "is_first_step"), False)
    torch._fused_sgd_(weights, gradients, velocities, **numbers, **off, found_inf=halted)
