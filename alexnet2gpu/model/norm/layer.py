"""The layer, and its backward pass, whoever computes it."""

import functools
import warnings

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet2gpu.model.norm import native, operations
from alexnet2gpu.model.norm.rule import Rule


class ResponseNorm(nn.Module):
    """(B, C, H, W) -> same: see Rule."""

    def __init__(self, rule: Rule):
        super().__init__()
        self.rule = rule
        self.keep_all = False  # what autograd would keep of the formula, operation by operation

    def forward(self, x):
        return written_out(x, self.rule) if self.keep_all else _ResponseNorm.apply(x, self.rule)

    def extra_repr(self):
        window, size, alpha, beta, k = self.rule
        window = "across maps" if window else "within a map"
        return f"{window}, size={size}, alpha={alpha:.3g}, beta={beta}, k={k}"


def images_at_once(rule: Rule, elements: int, width: int, on_gpu: bool) -> int:
    """How many images, of `elements` of `width` bytes each, have temporaries at a time; 0 where a
    kernel does it, which has none."""
    has_kernel = (
        _suits_triton(rule, width) if on_gpu else native.compiled(torch.float32) is not None
    )
    return 0 if has_kernel else operations.images_at_once(elements, on_gpu)


@functools.cache
def _triton_kernels():
    """The module, if a kernel of Triton's can be built here, for which it needs a C compiler and
    Python's headers, or if there is no GPU to try; else None."""
    try:
        from alexnet2gpu.model.norm import triton_kernels

        if torch.cuda.is_available():
            triton_kernels.normalise(torch.ones(1, 1, 1, 1, device="cuda"), Rule(True, 1, 0, 1, 1))
        return triton_kernels
    except Exception as error:  # of many kinds, none of which should end a training
        warnings.warn(f"normalisation without Triton, so slower: {error!r}", stacklevel=2)
        return None


def _suits_triton(rule, width):
    """Its kernels compute in float32, so not where elements are wider."""
    return rule.across_maps and width <= 4 and _triton_kernels() is not None


def _implementation(x, rule):
    """Kernels are for channels that lie last in memory, as everywhere in this network."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        return operations
    if x.is_cuda and _suits_triton(rule, x.element_size()):
        return _triton_kernels()
    return native if native.takes(x) else operations


class _ResponseNorm(torch.autograd.Function):
    """y = x d^-beta and dx = g d^-beta - 2 alpha beta x S(g x d^(-beta-1)), d = k + alpha S(x^2).

    S is its own transpose, since the window is symmetric. Only x is kept; d is computed again.
    The arithmetic is float32 or better.
    """

    @staticmethod
    def forward(ctx, x, rule):
        ctx.save_for_backward(x)
        ctx.rule = rule
        return _implementation(x, rule).normalise(x, rule)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_y):
        (x,) = ctx.saved_tensors
        return _implementation(x, ctx.rule).gradient(x, of_y, ctx.rule), None


def written_out(x: Tensor, rule: Rule) -> Tensor:
    """(B, C, H, W) -> same, as in F.local_response_norm, in float32 or better: autograd keeps
    four tensors of this size."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    total, half = wide * wide, rule.size // 2
    if rule.across_maps:
        total = F.pad(total.unsqueeze(1), (0, 0, 0, 0, half, half))
        total = F.avg_pool3d(total, (rule.size, 1, 1), 1).squeeze(1)
    else:
        total = F.avg_pool2d(total, rule.size, stride=1, padding=half)
    terms = rule.size if rule.across_maps else rule.size**2
    total = total * (rule.alpha * terms) + rule.k  # ONNX loses a divisor_override, in silence
    return (wide / total**rule.beta).to(x.dtype)
