"""Exchange and compute at once: the first layer of a stage starts on the rank's own half.

A convolution or a linear layer over the channels of all towers is a sum over towers. So it can be applied
to the own half while the others' travel, and to each of them when it has come. Backward, the gradients that
others wait for are computed first, and travel while the own one and those of the weights are computed. The
same function up to rounding, in two smaller steps instead of one, which take a little longer where the
exchange is fast. (In bfloat16 each part is rounded before it is added.)

It is an option of a config, `exchange.overlap`, off by default: docs/speed.md.
"""

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet2gpu.model.conv import convolution_backward
from alexnet2gpu.model.linear import in_one_piece, linear
from alexnet2gpu.ranks.link import Link, add


class Overlapped(nn.Module):
    """Instead of a stage's first layer, with its parameters: this rank's half (B, C/n, ...) -> what the
    layer gives of all channels (B, C, ...), as layer(exchange(half, link)) would."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, link: Link):
        super().__init__()
        self.weight, self.bias, self.link = layer.weight, layer.bias, link
        self.window = (layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else None

    def forward(self, half):
        return _Overlapped.apply(half, self.weight, self.bias, self.link, self.window)


class _Overlapped(Function):
    @staticmethod
    def forward(ctx, half, weight, bias, link, window):
        wait = link.start_gather(half)
        weights = weight.chunk(link.size, dim=1)  # (C', C/n, ...) each
        y = _apply(half, weights[link.rank], bias, window)
        halves = wait()  # (B, C/n, ...) each
        for r, (x, w) in enumerate(zip(halves, weights)):
            if r != link.rank:
                y += _apply(x.to(half.dtype), w, None, window)
        ctx.save_for_backward(weight, *halves)
        ctx.link, ctx.window = link, window
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        weight, *halves = ctx.saved_tensors
        link, dtype = ctx.link, gradient.dtype
        weights = [w.to(dtype) for w in weight.chunk(link.size, dim=1)]
        halves = [x.to(dtype) for x in halves]
        of_halves = [
            None if r == link.rank else _of_input(gradient, x, w, ctx.window)
            for r, (x, w) in enumerate(zip(halves, weights))
        ]
        wait = link.start_scatter(of_halves)
        own = _of_input(gradient, halves[link.rank], weights[link.rank], ctx.window)
        # (C', C, ...). In one expression: parts with a name would stay in memory till the end
        of_weight = torch.cat(
            [_of_weight(gradient, x, w, ctx.window) for x, w in zip(halves, weights)], dim=1
        )
        of_bias = gradient.sum(dim=[d for d in range(gradient.dim()) if d != 1])
        return add(own, wait()), of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None


def _apply(x, weight, bias, window):
    """The layer, over some of its channels."""
    if window is None:
        return linear(x, in_one_piece(weight), bias)
    return F.conv2d(x, weight, bias, *window)


def _of_input(gradient, x, weight, window):
    if window is None:
        return linear(gradient, in_one_piece(weight).t())
    return convolution_backward(gradient, x, weight, window, (True, False, False))[0]


def _of_weight(gradient, x, weight, window):
    if window is None:
        return linear(gradient.t(), x.t())
    return convolution_backward(gradient, x, weight, window, (False, True, False))[1]
