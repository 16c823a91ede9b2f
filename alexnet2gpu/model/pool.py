"""Max-pooling, which keeps only where its maxima were.

    on GPUs that have Triton   pool_kernels.py, channels last: each maximum's place in its window, 1 byte
    elsewhere                  torch's own, whose places in the map are kept in 2 bytes, 4 if it is large

nn.MaxPool2d keeps x, of which backward only reads the shape, and places in 8 bytes each.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet2gpu.config.layers import windows
from alexnet2gpu.model.device import has_triton, kind_of
from alexnet2gpu.model.plain import plain


def suits_triton(kernel: int, width: int) -> bool:
    """Whether Triton's kernels are for windows of kernel x kernel, whose places have to fit into a byte, and
    for elements of so many bytes: they compute in float32."""
    return kernel <= 16 and width <= 4


def has_kernels(device: str, dtype: torch.dtype, kernel: int) -> bool:
    """Whether Triton pools windows of kernel x kernel, in tensors of a type on "cpu" or "cuda" here."""
    return device == "cuda" and suits_triton(kernel, dtype.itemsize) and has_triton()


class MaxPool2d(nn.MaxPool2d):
    """(B, C, H, W) -> (B, C, H', W'), the largest value of each window."""

    def forward(self, x):
        other = self.dilation != 1 or self.return_indices or not isinstance(self.kernel_size, int)
        if plain() or other or x.dim() != 4:  # which no config asks for
            return super().forward(x)
        window = self.kernel_size, self.stride, self.padding, self.ceil_mode
        last = x.is_contiguous(memory_format=torch.channels_last)
        if last and has_kernels(kind_of(x), x.dtype, self.kernel_size):
            return by_kernel(x, *window)[0]
        return _MaxPool.apply(x, *window)


@torch.library.custom_op("alexnet2gpu::max_pool", mutates_args=())
def by_kernel(x: Tensor, kernel: int, stride: int, pad: int, ceil: bool) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> y and the places of its values in their windows, both (B, C, H', W'), channels last."""
    from alexnet2gpu.model import pool_kernels  # Triton is not on every machine

    y, places = _outputs(x, kernel, stride, pad, ceil)
    pool_kernels.largest(_channels_last(x), y, places, kernel, stride, pad)
    return y, places


@by_kernel.register_fake
def _outputs(x, kernel, stride, pad, ceil):
    shape = *x.shape[:2], *(windows(side, kernel, stride, pad, ceil) for side in x.shape[2:])
    return _empty(x, shape, x.dtype), _empty(x, shape, torch.uint8)


@torch.library.custom_op("alexnet2gpu::max_pool_backward", mutates_args=())
def gradient_by_kernel(
    of_y: Tensor, places: Tensor, height: int, width: int, kernel: int, stride: int, pad: int
) -> Tensor:
    """(B, C, H', W') both -> the gradient of x (B, C, H, W), channels last in memory. Tensors may come in
    another layout, as what was kept does if it was offloaded."""
    from alexnet2gpu.model import pool_kernels

    of_x = _of_x(of_y, places, height, width)
    pool_kernels.gradient(_channels_last(of_y), _channels_last(places), of_x, kernel, stride, pad)
    return of_x


@gradient_by_kernel.register_fake
def _of_x(of_y, places, height, width, *window):
    return _empty(of_y, (*of_y.shape[:2], height, width), of_y.dtype)


def _keep(ctx, inputs, output):
    x, *window, _ = inputs
    ctx.window = *x.shape[2:], *window
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, of_y, _):
    return gradient_by_kernel(of_y, *ctx.saved_tensors, *ctx.window), None, None, None, None


by_kernel.register_autograd(_backward, setup_context=_keep)


def _empty(beside, shape, dtype):
    return torch.empty(shape, dtype=dtype, device=beside.device, memory_format=torch.channels_last)


def _channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel, stride, pad, ceil):
        y, maxima = F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil, return_indices=True)
        if ctx.needs_input_grad[0]:
            pixels = x.shape[2] * x.shape[3]
            ctx.save_for_backward(maxima.to(torch.int16 if pixels <= 2**15 else torch.int32))
            ctx.shape, ctx.window = x.shape, ([kernel] * 2, [stride] * 2, [pad] * 2, [1, 1], ceil)
            last = x.is_contiguous(memory_format=torch.channels_last)
            ctx.layout = torch.channels_last if last else torch.contiguous_format
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (maxima,) = ctx.saved_tensors
        # in another layout than of_x, torch copies all three
        gradient = gradient.contiguous(memory_format=ctx.layout)
        of_x = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout)
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
            gradient, of_x, *ctx.window, maxima.long(), grad_input=of_x
        )  # of_x in the place of x too, of which only shape and layout are read
        return of_x, None, None, None, None
