"""Fully connected layers, by the library that also does the convolutions: on the CPU oneDNN.

In float32 torch gives products of matrices to MKL, which on AMD's processors reaches less than
half the rate of oneDNN (docs/speed.md). In bfloat16 torch takes oneDNN itself; and torch.compile
is left to choose for itself, since it cannot translate the operation that is called here.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (B, F), weight (F', F), bias (F') -> x weight^T + bias, (B, F'), on any device; autograd
    sees nothing of it on the CPU in float32."""
    if _suits_onednn(x) and _in_one_piece(x) and _in_one_piece(weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def in_one_piece(weight: Tensor) -> Tensor:
    """A part of a weight as `linear` can give it to oneDNN: a copy, if that is to multiply it."""
    apart = _suits_onednn(weight) and not _in_one_piece(weight)
    return weight.contiguous() if apart else weight


def _in_one_piece(matrix):
    """If not, oneDNN would take a thousand times as long."""
    return matrix.is_contiguous() or matrix.t().is_contiguous()


def _suits_onednn(x):
    return (
        x.device.type == "cpu" and x.dtype == torch.float32
        and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    )  # fmt: skip


class Linear(nn.Linear):
    """(B, F) -> (B, F')."""

    def forward(self, x):
        if _suits_onednn(x) and x.dim() == 2:
            return _Linear.apply(x, self.weight, self.bias)
        return super().forward(x)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            linear(gradient, weight.t()) if need_x else None,
            linear(gradient.t(), x.t()) if need_weight else None,
            gradient.sum(0) if need_bias else None,
        )
