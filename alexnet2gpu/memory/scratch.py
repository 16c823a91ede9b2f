"""Scratch memory: what an operation takes from torch's allocator and gives back before it ends.

On tensors without data nothing of it is seen, so there is a rule for each operation that takes much, with its
source in torch. On the CPU they were held against torch's allocator, operation by operation
(python -m bench.memory.against); what they leave out is some 10 KiB an operation, and what depends on the
instructions that a CPU has.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from alexnet2gpu.model.linear import by_onednn
from alexnet2gpu.model.norm.layer import gradient_by_kernel
from alexnet2gpu.model.norm.operations import images_at_once

aten = torch.ops.aten
THREADS = 1  # of the rank: oneDNN takes a buffer for each
OF_ONEDNN = 8 * 2**10  # bytes in which it notes what to multiply
CPU: dict[Callable, Callable] = {}  # operation -> bytes, from its arguments
CUDA: dict[Callable, Callable] = {}


def scratch_of(function, args: tuple, kwargs: dict, device: str) -> int:
    """Bytes that an operation holds at most, beyond what it leaves, on a "cpu" or a "cuda"."""
    rule = (CPU if device == "cpu" else CUDA).get(function)
    return rule(*args, **kwargs) if rule else 0


def _on(rules, *functions):
    """That a function is the rule of operations."""

    def enter(rule):
        rules.update(dict.fromkeys(functions, rule))
        return rule

    return enter


def _layout(*tensors):
    """Channels last if one of them is so in memory (suggest_memory_format in torch's C++)."""
    last = any(
        t.dim() == 4
        and t.is_contiguous(memory_format=torch.channels_last)
        and not t.is_contiguous()
        or _like_channels_last(t)
        for t in tensors
    )
    return torch.channels_last if last else torch.contiguous_format


def _like_channels_last(tensor):
    if tensor.dim() != 4:
        return False
    _, c, h, w = tensor.stride()
    return c == 1 and (tensor.shape[1] > 1 or h > 1) and w >= tensor.shape[1] and h >= w * tensor.shape[3]


def _copy(tensor, layout):
    """Bytes of the tensor in this layout, if it is in another."""
    return 0 if tensor.is_contiguous(memory_format=layout) else tensor.nbytes


# Convolution.cpp: what oneDNN does not take goes to ConvolutionMM2d.cpp, which writes out all windows
def _windows(x, weight, stride, padding, out_shape):
    (_, _, *kernel), pixels = weight.shape, math.prod(out_shape[2:])
    if set(kernel) == {1} and set(stride) == {1} and set(padding) == {0}:
        return 0
    return x.element_size() * len(x) * x.shape[1] * math.prod(kernel) * pixels


def _by_onednn(x):
    """bfloat16 too is taken where a CPU has instructions for it; here, none is assumed to. (With one thread,
    1x1 kernels on fewer than 16 images are not.)"""
    return x.dtype == torch.float32


def _sides(x, weight, stride, padding):
    return [
        (side + 2 * pad - kernel) // step + 1
        for side, kernel, step, pad in zip(x.shape[2:], weight.shape[2:], stride, padding)
    ]


def _in_eights(shape, x):
    """Bytes of (B, C, H, W) as oneDNN has them, 8 maps together."""
    images, maps, *sides = shape
    return x.element_size() * images * (maps + -maps % 8) * math.prod(sides)


@_on(CPU, aten.convolution.default)
def _convolution(x, weight, bias, stride, padding, *rest):
    out = len(x), len(weight), *_sides(x, weight, stride, padding)
    layout = _layout(x, weight)
    if not _by_onednn(x):
        return _copy(x, layout) + _windows(x, weight, stride, padding, out)
    if layout == torch.channels_last:
        return _copy(x, layout) + weight.nbytes + OF_ONEDNN  # in oneDNN's own order
    own_y, y = _in_eights(out, x), x.element_size() * math.prod(out)
    return max(_own_x(x, weight) + weight.nbytes + own_y - y, own_y)  # before it is copied


@_on(CPU, aten.convolution_backward.default)
def _convolution_backward(of_y, x, weight, biases, stride, padding, dilation, *rest):
    *_, groups, wanted = rest
    layout, strided = _layout(x, weight), max(stride) > 1
    copies = _copy(x, layout) + _copy(of_y, layout)
    if not _by_onednn(x):
        return copies + _windows(x, weight, stride, padding, of_y.shape)
    if layout == torch.channels_last:
        return copies + max(2 * weight.nbytes, 7 * OF_ONEDNN if strided and groups == 1 else 0)
    of_y, of_x = _in_eights(of_y.shape, x), _in_eights(x.shape, x) if x.shape[1] > 3 else x.nbytes
    each_map, kernel = groups == x.shape[1] > 1, max(weight.shape[2:])
    while_x = of_y + of_x - x.nbytes if wanted[0] else 0
    after_x = of_x * (2 if strided and groups == 1 else 1) - weight.nbytes if wanted[0] else 0
    while_weight = 0 if each_map and kernel > 3 else of_y + _own_x(x, weight)
    return copies + max(while_x, after_x, while_weight, weight.nbytes)


def _own_x(x, weight):
    """Bytes of images in oneDNN's own order, if it does not read them as they are."""
    as_is = 1 < x.shape[1] <= 3 or x.shape[1] == 1 and weight.shape[2] > 1
    return 0 if as_is else _in_eights(x.shape, x)


@_on(CPU, aten.native_batch_norm_backward.default)
def _batch_norm_backward(of_y, x, *rest):
    """Normalization.cpp"""
    return x.nbytes


@_on(CPU, aten.native_layer_norm.default, aten.native_layer_norm_backward.default)
def _layer_norm(*tensors_and_more):
    """layer_norm.cpp"""
    tensors = [t for t in tensors_and_more[:2] if isinstance(t, Tensor)]  # x, or the gradient of y and x
    return sum(_copy(t, torch.contiguous_format) for t in tensors)


@_on(CPU, aten._scaled_dot_product_flash_attention_for_cpu_backward.default)
def _attention_backward(of_y, *rest):
    """FlashAttention.cpp"""
    return _copy(of_y.transpose(1, 2), torch.contiguous_format)


@_on(CPU, aten.avg_pool2d_backward.default)
def _avg_pool_backward(of_y, x, *rest):
    layout = _layout(of_y)
    return _copy(of_y, layout) + (x.nbytes if _layout(x) != layout else 0)


@_on(CPU, aten.max_pool2d_with_indices_backward.default)
def _max_pool_backward(of_y, x, *rest):
    *_, places = rest
    layout = _layout(of_y)
    more = x.nbytes if _layout(x) != layout else 0
    return _copy(of_y, layout) + _copy(places, layout) + more


@_on(CPU, by_onednn._opoverload)
def _linear(x, weight, bias):
    if weight.is_contiguous():  # is rearranged, 64 rows at a time
        return THREADS * 64 * 4 * min(1024, x.shape[1])
    return 0 if x.is_contiguous() else x.nbytes


@_on(CPU, aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)
def _of_two(first, second, **how):
    """TensorIterator.cpp: operands of another type than the result's are copied, 8 bytes of a number too."""
    wide = torch.result_type(first, second)
    tensors = [t for t in (first, second) if isinstance(t, Tensor) and t.dim()]
    copies = sum(t.numel() * wide.itemsize for t in tensors if t.dtype != wide)
    return copies + (0 if isinstance(second, Tensor) else 8 + wide.itemsize % 8)


@_on(CPU, gradient_by_kernel._opoverload)
def _norm_backward(x, of_y, *rest):
    """norm/native.py"""
    return _copy(of_y, torch.channels_last)


@_on(CUDA, gradient_by_kernel._opoverload)
def _norm_backward_on_gpu(x, of_y, across_maps, *rest):
    """norm/triton_kernels.py: within a map, one sum over some images is there before the next begins."""
    some = min(len(x), images_at_once(x.shape[1:].numel(), on_gpu=True))
    return _norm_backward(x, of_y) + (0 if across_maps else 4 * some * x.shape[1:].numel())


@_on(CPU, torch.ops.c10d._reduce_scatter_base_.default)
def _reduce_scatter(part, whole, *rest):
    """ProcessGroupGloo.cpp: a sum over all of a copy. (Its threads take more, which are not asked.)"""
    return whole.nbytes


@_on(CPU, aten.avg_pool3d.default)
def _avg_pool3d(x, *rest):
    """AveragePool3d.cpp"""
    return _copy(x, torch.contiguous_format)
