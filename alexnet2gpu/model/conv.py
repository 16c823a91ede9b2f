"""The convolution, channels last in memory. Its last windows may hang over the edge (`ceil: true`).

    on the CPU                             torch's own
    on GPUs                                torch's own; the gradient of the bias is a product of a matrix
                                           and a vector, in half the time of torch's sum
    - that have Triton, with a stride,     a convolution without a stride over blocks of pixels, which
      of few maps, as an image             conv_kernels.py makes from the image

GPUs are slow where there are few maps. So each block of stride x stride pixels becomes stride^2 times as many
maps of one pixel, and the kernel, filled up with zeros, is rearranged alike: for AlexNet's first layer 3x3
over 48 maps of 57x57 pixels, for 11x11 over 3 maps of 227x227. The products are the same, and zeros besides.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet2gpu.config.layers import windows
from alexnet2gpu.model.device import has_triton, on_gpu
from alexnet2gpu.model.plain import plain


class Conv2d(nn.Conv2d):
    """(B, C, H, W) -> (B, C', H', W'), weights (C', C, k, k) with channels last in memory: maps and gradients
    then have them last too. They are left for `layers.draw_weights` to fill.

    It reads zeros in the overhang. With 224 pixels, a kernel of 11 and a stride of 4, 55 windows overhang by
    3: as the kernels of 2012 did it, and why the paper's first layer is 55x55. With an overhang or in blocks
    it keeps x as it came, and rearranges it again in backward; not so with `keep_padded`.
    """

    overhang = 0, 0  # pixels below and to the right
    keep_padded = False

    def reset_parameters(self):
        last = torch.empty_like(self.weight, memory_format=torch.channels_last)
        self.weight = nn.Parameter(last)

    def forward(self, x):
        if not on_gpu(x) or plain() or torch.compiler.is_compiling():
            return self._convolve(x, self.bias)
        few = not self.keep_padded and x.dim() == 4 and suits_blocks(self.in_channels, self.stride[0])
        if few and has_triton():
            window = self.overhang, self.stride[0], self.padding[0]
            return AddBias.apply(BlockConv.apply(x, self.weight, *window), self.bias)
        return AddBias.apply(self._convolve(x, None), self.bias)

    def _convolve(self, x, bias):
        window = self.stride, self.padding
        step, _ = self.stride
        if self.kernel_size == (1, 1) and step > 1 and not (any(self.padding) or on_gpu(x)):
            # as oneDNN does it, it writes beyond its memory where there are few maps
            return F.conv2d(_padded(x, self.overhang)[..., ::step, ::step], self.weight, bias)
        if self.keep_padded or plain() or not any(self.overhang):
            return F.conv2d(_padded(x, self.overhang), self.weight, bias, *window)
        return _OverhangConv.apply(x, self.weight, bias, self.overhang, *window)


def _padded(x, overhang):
    """(B, C, H, W) -> (B, C, H + below, W + right), with zeros there."""
    below, right = overhang
    return F.pad(x, (0, right, 0, below)) if below or right else x


class _OverhangConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, overhang, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.window = overhang, stride, padding
        return F.conv2d(_padded(x, overhang), weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        overhang, *window = ctx.window
        need_x, _, need_bias, *_ = ctx.needs_input_grad
        tensors = gradient, _padded(x, overhang).to(gradient.dtype), weight.to(gradient.dtype)
        of_padded, of_weight, of_bias = convolution_backward(*tensors, window, (need_x, True, need_bias))
        _, _, height, width = x.shape
        of_x = of_padded[:, :, :height, :width].to(x.dtype) if need_x else None
        of_bias = of_bias.to(weight.dtype) if need_bias else None
        return of_x, of_weight.to(weight.dtype), of_bias, None, None, None


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, window: tuple, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x (B, C, H, W), weight (C', C, k, k) and bias (C',) of F.conv2d, as many as are `wanted`,
    from that of its output (B, C', H', W'). `window`: stride and padding."""
    rest = (1, 1), False, (0, 0), 1  # dilation, transposed, output padding, groups
    biases = [len(weight)]
    return torch.ops.aten.convolution_backward(gradient, x, weight, biases, *window, *rest, wanted)


class AddBias(torch.autograd.Function):
    """y (B, C, H, W) + bias (C,), in place, as torch does it on GPUs after a convolution. Keeps nothing."""

    @staticmethod
    def forward(ctx, y, bias):
        ctx.mark_dirty(y)
        ctx.dtype = bias.dtype
        return y.add_(bias.to(y.dtype)[:, None, None])

    @staticmethod
    def backward(ctx, gradient):
        pixels = gradient.movedim(-3, -1).flatten(0, -2)  # (B H W, C)
        return gradient, torch.mv(pixels.t(), pixels.new_ones(len(pixels))).to(ctx.dtype)


def suits_blocks(maps: int, stride: int) -> bool:
    """Whether a convolution is faster over blocks, on a GPU."""
    return stride > 1 and stride**2 * maps <= 64


@torch.library.custom_op("alexnet2gpu::blocks", mutates_args=())
def blocks(x: Tensor, stride: int, pad: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """(B, C, H, W) -> (B, stride * stride * C, rows, columns) in `dtype`, channels last in memory: blocks of
    pixels from `pad` above and to the left of x on, zeros outside of it. Of a block's values, those of its
    first row come first, pixel by pixel."""
    from alexnet2gpu.model import conv_kernels  # Triton is not on every machine

    out = _empty_blocks(x, stride, pad, rows, columns, dtype)
    conv_kernels.blocks(x.contiguous(memory_format=torch.channels_last), out, stride, pad)
    return out


@blocks.register_fake
def _empty_blocks(x, stride, pad, rows, columns, dtype):
    shape = len(x), stride * stride * x.shape[1], rows, columns
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


class BlockConv(torch.autograd.Function):
    """x (B, C, H, W), weight (C', C, k, k), overhang, stride, pad -> (B, C', H', W')."""

    @staticmethod
    def forward(ctx, x, weight, overhang, stride, pad):
        ctx.save_for_backward(x, weight)
        sides = [side + more for side, more in zip(x.shape[2:], overhang)]
        kernel = weight.shape[2]
        beyond = math.ceil(kernel / stride) - 1  # blocks after a window's first
        ctx.window = stride, pad, *(windows(side, kernel, stride, pad, False) + beyond for side in sides)
        return F.conv2d(blocks(x, *ctx.window, _computed_in(x)), _weight_blocks(weight, stride))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        stride, pad, *_ = ctx.window
        need_x, (_, _, height, width), kernel = ctx.needs_input_grad[0], x.shape, weight.shape[2]
        factors = blocks(x, *ctx.window, gradient.dtype), _weight_blocks(weight, stride).to(gradient.dtype)
        window = (1, 1), (0, 0)
        of_x, of_weight, _ = convolution_backward(gradient, *factors, window, (need_x, True, False))
        if need_x:
            of_x = _pixels(of_x, stride)
            below, right = height + pad - of_x.shape[2], width + pad - of_x.shape[3]
            of_x = F.pad(of_x, (-pad, right, -pad, below)).to(x.dtype)  # cuts off what is negative
        of_weight = _pixels(of_weight, stride)[:, :, :kernel, :kernel].to(weight.dtype)
        return of_x, of_weight.contiguous(memory_format=torch.channels_last), None, None, None


def _computed_in(x):
    """The type in which F.conv2d computes of x."""
    device = x.device.type
    narrow = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if narrow else x.dtype


def _weight_blocks(weight, stride):
    """(C', C, k, k) -> (C', stride * stride * C, K, K), channels last in memory: each kernel as `blocks` has
    the image, K = ceil(k / stride)."""
    more = -weight.shape[2] % stride
    filled = F.pad(weight.permute(0, 2, 3, 1), (0, 0, 0, more, 0, more))
    filled = filled.unflatten(2, (-1, stride)).unflatten(1, (-1, stride))  # (C', K, stride, K, stride, C)
    return filled.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)


def _pixels(x, stride):
    """(B, stride * stride * C, rows, columns) -> (B, C, stride * rows, stride * columns), from blocks."""
    x = x.permute(0, 2, 3, 1).unflatten(3, (stride, stride, -1))  # (B, rows, columns, stride, stride, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
