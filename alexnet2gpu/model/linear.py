"""Fully connected layers, by the library that also does the convolutions: on the CPU oneDNN.

In float32 torch gives products of matrices to MKL, which on AMD's processors reaches less than half the rate
of oneDNN (docs/speed.md). In bfloat16 torch takes oneDNN itself; and torch.compile and torch.export are left
to choose for themselves. To torch's other tools the product is an operation of its own, alexnet2gpu::linear.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet2gpu.model.device import kind_of
from alexnet2gpu.model.plain import plain

SMALL = 2**17  # elements of a weight that is multiplied by torch's own choice: oneDNN takes memory as large
# for itself, and its calls as long


@torch.library.custom_op("alexnet2gpu::linear", mutates_args=(), device_types="cpu")
def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `linear`, of float32 on the CPU, x and weight in one piece."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@by_onednn.register_fake
def _(x, weight, bias):
    return x.new_empty(len(x), len(weight))


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx, gradient):
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad
    return (
        linear(gradient, weight.t()) if need_x else None,
        linear(gradient.t(), x.t()) if need_weight else None,
        gradient.sum(0) if need_bias else None,
    )


by_onednn.register_autograd(_backward, setup_context=_keep)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (B, F), weight (F', F), bias (F') -> x weight^T + bias, (B, F'), on any device."""
    if suits_onednn(x) and x.dim() == 2 and _in_one_piece(x) and _in_one_piece(weight):
        return by_onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def suits_onednn(x: Tensor) -> bool:
    """Whether `linear` is to take oneDNN for a tensor like this."""
    return (
        not plain()
        and kind_of(x) == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def in_one_piece(weight: Tensor) -> Tensor:
    """A part of a weight as `linear` can give it to oneDNN: a copy, if that is to multiply it."""
    apart = suits_onednn(weight) and not _in_one_piece(weight)
    return weight.contiguous() if apart else weight


def _in_one_piece(matrix):
    """If not, oneDNN would take a thousand times as long."""
    return matrix.is_contiguous() or matrix.t().is_contiguous()


class Linear(nn.Linear):
    """(B, F) -> (B, F'); weights (F', F) are left for layers.draw_weights to fill."""

    def reset_parameters(self):
        pass

    def forward(self, x):
        small = self.weight.numel() < SMALL
        return F.linear(x, self.weight, self.bias) if small else linear(x, self.weight, self.bias)
