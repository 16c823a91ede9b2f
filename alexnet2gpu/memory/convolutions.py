"""Scratch memory of convolutions on the CPU, and in which layout they compute.

float32 is oneDNN's, and so is a narrow type for which the CPU has instructions. oneDNN has tensors in an
order of its own, 8 or 16 maps together, as a vector of the CPU has numbers; with channels last only the
weights. Of all other types all windows are written out, of one image or of all of them
(ConvolutionMM2d.cpp, NaiveDilatedConvolution.cpp, NaiveConvolutionTranspose2d.cpp). Not in here is what
else depends on instructions: for bfloat16 AMX takes some 100 KiB, and with a single thread oneDNN takes no
kernels of 1x1 on fewer than 16 images.
"""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

NOTES = 8 * 2**10  # bytes in which oneDNN notes what to multiply
NO_AVX512 = "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"  # what oneDNN calls less than AVX-512


class Window(NamedTuple):
    """As aten.convolution has it, the last of its arguments."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    more: Sequence[int]  # pixels of a transposed one's output
    groups: int


def layout_of(*tensors) -> torch.memory_format:
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


def copied(tensor, layout) -> int:
    """Bytes of the tensor in this layout, if it is in another."""
    return 0 if tensor.is_contiguous(memory_format=layout) else tensor.nbytes


def convolution(x, weight, bias, *window) -> int:
    """Of aten.convolution."""
    window, layout = Window(*window), layout_of(x, weight)
    shape, groups = _shape(x, weight, window), window.groups
    y = x.element_size() * math.prod(shape)
    if not _by_onednn(x.dtype):
        windows = _windows(x, weight, shape, window) * (len(x) if window.transposed else 1)
        copies = copied(x, layout) if groups == 1 else x.nbytes // groups
        return max(copies + windows // groups, y if groups > 1 else 0)
    if layout == torch.channels_last:
        return copied(x, layout) + _own_weights(weight) + NOTES
    if _as_they_are(weight, groups):
        return y
    own_y = _together(shape, x)
    after = 2 * y if window.transposed and max(window.stride) > 1 else own_y  # before it is copied
    return max(_own_x(x, weight) + _own_weights(weight) + own_y - y, after)


def convolution_backward(of_y, x, weight, biases, *rest) -> int:
    """Of aten.convolution_backward: first the gradient of x, if it is wanted, then of weights."""
    *window, wanted = rest
    window, layout = Window(*window), layout_of(x, weight)
    groups, once = window.groups, max(window.stride) == 1 or window.groups > 1
    copies = copied(x, layout) + copied(of_y, layout)
    if not _by_onednn(x.dtype):
        windows = _windows(x, weight, of_y.shape, window)
        return (copies if groups == 1 else (x.nbytes + of_y.nbytes) // groups) + windows // groups
    if layout == torch.channels_last:
        return copies + max(weight.nbytes + _own_weights(weight), 0 if once else 7 * NOTES)
    if _as_they_are(weight, groups):
        return copies + (x.nbytes - weight.nbytes if wanted[0] else 0)
    own_of_y, own_of_x = _together(of_y.shape, x), _together(x.shape, x) if x.shape[1] > 3 else x.nbytes
    while_x = own_of_y + own_of_x - x.nbytes if wanted[0] else 0
    strided = own_of_x if maps_together() == 8 else x.nbytes  # with AVX-512 those have channels last
    after_x = (own_of_x if once else 2 * strided) - weight.nbytes if wanted[0] else 0
    apart = groups == x.shape[1] > 1 and max(weight.shape[2:]) > 3 or max(window.dilation) > 1
    more = _own_weights(weight) - weight.nbytes
    while_weight = 0 if apart else own_of_y + _own_x(x, weight) + more
    return copies + max(while_x, after_x, while_weight, weight.nbytes)


def _by_onednn(dtype):
    """The CPU has instructions for narrow types, or has not; oneDNN then leaves them to torch."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported()


def _shape(x, weight, window):
    """(B, C', H', W')."""
    spans = [step * (kernel - 1) + 1 for step, kernel in zip(window.dilation, weight.shape[2:])]
    of_side = zip(x.shape[2:], spans, window.stride, window.padding, window.more)
    if window.transposed:
        sides = [(side - 1) * step + span - 2 * pad + more for side, span, step, pad, more in of_side]
        return len(x), weight.shape[1] * window.groups, *sides
    sides = [(side + 2 * pad - span) // step + 1 for side, span, step, pad, _ in of_side]
    return len(x), len(weight), *sides


def _windows(x, weight, shape, window):
    """Bytes of all windows, written out: of an image where it is transposed or dilated."""
    kernel = math.prod(weight.shape[2:])
    if window.transposed:
        return x.element_size() * weight.shape[1] * window.groups * kernel * math.prod(x.shape[2:])
    if kernel == 1 and set(window.stride) == {1} and set(window.padding) == {0}:
        return 0
    images = 1 if max(window.dilation) > 1 else len(x)
    return x.element_size() * images * x.shape[1] * kernel * math.prod(shape[2:])


def _as_they_are(weight, groups):
    """Whether oneDNN leaves tensors as they are: small groups, that are not of one map each."""
    out, maps = len(weight) // groups, weight.shape[1]
    return groups > 1 and (out, maps) != (1, 1) and (out % 8 > 0 or maps % 8 > 0)


def maps_together() -> int:
    """How many maps oneDNN has side by side on this CPU: 16 with AVX-512, unless the environment's
    ONEDNN_MAX_CPU_ISA forbids that, else 8."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return 16 if wide and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in NO_AVX512 else 8


def _together(shape, x):
    """Bytes of (B, C, H, W) as oneDNN has them, with maps of zeros to complete the last that lie together."""
    images, maps, *sides = shape
    return x.element_size() * images * _whole(maps) * math.prod(sides)


def _whole(maps):
    return maps + -maps % maps_together()


def _own_weights(weight):
    """Bytes of weights in oneDNN's own order. With eights they are taken as they are: of 9 shapes that were
    tried it completes some to 24 outputs, by up to 41 KB."""
    if maps_together() == 8:
        return weight.nbytes
    out, maps, *kernel = weight.shape
    maps = maps if maps < 16 else _whole(maps)
    return weight.element_size() * _whole(out) * maps * math.prod(kernel)


def _own_x(x, weight):
    """Bytes of images in oneDNN's own order, if it does not read them as they are."""
    as_is = 1 < x.shape[1] <= 3 or x.shape[1] == 1 and weight.shape[2] > 1
    return 0 if as_is else _together(x.shape, x)
