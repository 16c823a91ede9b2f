"""Scratch memory: what an operation takes from torch's allocator and gives back before it ends.

On tensors without data nothing of it is seen, so there is a rule for each operation that takes much, with its
source in torch. On the CPU they were held against torch's allocator, operation by operation
(python -m bench.memory.against); what they leave out is some 10 KiB an operation, and what depends on the
instructions that a CPU has.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from alexnet2gpu.memory.convolutions import convolution, convolution_backward, copied, layout_of
from alexnet2gpu.model.linear import by_onednn
from alexnet2gpu.model.norm.layer import gradient_by_kernel
from alexnet2gpu.model.norm.operations import images_at_once

aten = torch.ops.aten
THREADS = 1  # of the rank: oneDNN takes a buffer for each
CPU: dict[Callable, Callable] = {}  # operation -> bytes, from its arguments
CUDA: dict[Callable, Callable] = {}


def scratch_of(function, args: tuple, device: str) -> int:
    """Bytes that an operation holds at most, beyond what it leaves, on a "cpu" or a "cuda"; of its arguments
    those that can be given by place."""
    rule = (CPU if device == "cpu" else CUDA).get(function)
    return rule(*args) if rule else 0


def _on(rules, *functions):
    """That a function is the rule of operations."""

    def enter(rule):
        rules.update(dict.fromkeys(functions, rule))
        return rule

    return enter


CPU |= {aten.convolution.default: convolution, aten.convolution_backward.default: convolution_backward}


@_on(CPU, aten.native_batch_norm_backward.default)
def _batch_norm_backward(of_y, x, *rest):
    """Normalization.cpp"""
    return x.nbytes


@_on(CPU, aten.native_layer_norm.default, aten.native_layer_norm_backward.default)
def _layer_norm(*tensors_and_more):
    """layer_norm.cpp"""
    tensors = [t for t in tensors_and_more[:2] if isinstance(t, Tensor)]  # x, or the gradient of y and x
    return sum(copied(t, torch.contiguous_format) for t in tensors)


@_on(CPU, aten._scaled_dot_product_flash_attention_for_cpu_backward.default)
def _attention_backward(of_y, *rest):
    """FlashAttentionKernel.cpp: some rows of q with some of k at a time, and their gradients."""
    q, k, *_ = rest
    rows = 32 if q.shape[2] < 192 else 64 if q.shape[2] < 768 else 256
    blocks = THREADS * 2 * 4 * rows * min(512, k.shape[2])
    return copied(of_y.transpose(1, 2), torch.contiguous_format) + blocks


@_on(CPU, aten.avg_pool2d_backward.default)
def _avg_pool_backward(of_y, x, *rest):
    layout = layout_of(of_y)
    return copied(of_y, layout) + (x.nbytes if layout_of(x) != layout else 0)


@_on(CPU, aten.max_pool2d_with_indices_backward.default)
def _max_pool_backward(of_y, x, *rest):
    *_, places = rest
    layout = layout_of(of_y)
    more = x.nbytes if layout_of(x) != layout else 0
    return copied(of_y, layout) + copied(places, layout) + more


@_on(CPU, aten.mm.default, aten.addmm.default)
def _product(*tensors):
    """LinearAlgebra.cpp: a matrix that lies neither by rows nor by columns is copied, as an expanded one."""
    odd = [m for m in tensors[-2:] if not any(m.stride(a) == 1 <= m.stride(1 - a) for a in (0, 1))]
    return sum(matrix.numel() * matrix.element_size() for matrix in odd)


@_on(CPU, by_onednn._opoverload)
def _linear(x, weight, bias):
    if weight.is_contiguous():  # is rearranged, 64 rows at a time
        return THREADS * 64 * 4 * min(1024, x.shape[1])
    return 0 if x.is_contiguous() else x.nbytes


@_on(CPU, aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)
def _of_two(first, second, *rest):
    """TensorIterator.cpp: operands of another type than the result's are copied, 8 bytes of a number too."""
    wide = torch.result_type(first, second)
    tensors = [t for t in (first, second) if isinstance(t, Tensor) and t.dim()]
    copies = sum(t.numel() * wide.itemsize for t in tensors if t.dtype != wide)
    return copies + (0 if isinstance(second, Tensor) else 8 + wide.itemsize % 8)


@_on(CPU, gradient_by_kernel._opoverload)
def _norm_backward(x, of_y, *rest):
    """norm/native.py"""
    return copied(of_y, torch.channels_last)


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
    return copied(x, torch.contiguous_format)
