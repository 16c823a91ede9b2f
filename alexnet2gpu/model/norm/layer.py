"""The layer, its two operations for kernels, and its backward pass without one.

    y = x d^-beta,  dx = g d^-beta - 2 alpha beta x S(g x d^(-beta-1)),  d = k + alpha S(x^2)

S is its own transpose, since the window is symmetric. Only x is kept; d is computed again. The arithmetic is
float32 or better, whoever computes it.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.model.device import has_triton, kind_of, played
from alexnet2gpu.model.norm import native, operations
from alexnet2gpu.model.plain import plain

NARROWEST = NormRule(across_maps=True, size=1, alpha=0, beta=1, k=1)


class ResponseNorm(nn.Module):
    """(B, C, H, W) -> same: see NormRule. With `keep_all` autograd keeps what it would of the formula,
    operation by operation."""

    def __init__(self, rule: NormRule, keep_all: bool = False):
        super().__init__()
        self.rule, self.keep_all = rule, keep_all

    def forward(self, x):
        if self.keep_all or plain():
            return written_out(x, self.rule)
        last = x.is_contiguous(memory_format=torch.channels_last)  # as everywhere in this network
        if last and has_kernels(kind_of(x), x.dtype, self.rule):
            return by_kernel(x, *self.rule)
        return _ByOperations.apply(x, self.rule)

    def extra_repr(self):
        window, size, alpha, beta, k = self.rule
        window = "across maps" if window else "within a map"
        return f"{window}, size={size}, alpha={alpha:.3g}, beta={beta}, k={k}"


# The widest windows for which Triton compiles a kernel within some 5 seconds (python -m bench.gpu.compiled)
WIDEST = {"across maps": 15, "within a map": 7}


def suits_triton(rule: NormRule, width: int) -> bool:
    """Whether Triton's kernels are for a rule, and for elements of so many bytes: they compute in float32."""
    return width <= 4 and rule.size <= WIDEST["across maps" if rule.across_maps else "within a map"]


def has_kernels(device: str, dtype: torch.dtype = torch.float32, rule: NormRule = NARROWEST) -> bool:
    """Whether a kernel does this rule for tensors of a type on "cpu" or "cuda" here, built if need be."""
    if device == "cpu":
        return dtype in native.TYPES and (played() or native.compiled(dtype) is not None)
    return device == "cuda" and suits_triton(rule, dtype.itemsize) and has_triton()


# As torch.compiler.assume_constant_result does it, which imports the compiler: three seconds in every rank.
has_kernels._dynamo_marked_constant = True


def _channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def _kernels(x):
    if not x.is_cuda:
        return native
    from alexnet2gpu.model.norm import triton_kernels  # Triton is not on every machine

    return triton_kernels


@torch.library.custom_op("alexnet2gpu::response_norm", mutates_args=())
def by_kernel(x: Tensor, across_maps: bool, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """(B, C, H, W) -> y, channels last in memory."""
    return _kernels(x).normalise(_channels_last(x), NormRule(across_maps, size, alpha, beta, k))


@torch.library.custom_op("alexnet2gpu::response_norm_backward", mutates_args=())
def gradient_by_kernel(
    x: Tensor, of_y: Tensor, across_maps: bool, size: int, alpha: float, beta: float, k: float
) -> Tensor:
    """(B, C, H, W) and the gradient of y -> that of x, channels last in memory. What autograd has kept may
    have lost its layout on the way, as if it was offloaded."""
    return _kernels(x).gradient(_channels_last(x), of_y, NormRule(across_maps, size, alpha, beta, k))


@by_kernel.register_fake
@gradient_by_kernel.register_fake
def _(x, *rest):
    return torch.empty_like(_channels_last(x))


def _keep(ctx, inputs, output):
    x, *ctx.rule = inputs
    ctx.save_for_backward(x)


def _backward(ctx, of_y):
    return gradient_by_kernel(*ctx.saved_tensors, of_y, *ctx.rule), *[None] * len(ctx.rule)


by_kernel.register_autograd(_backward, setup_context=_keep)


class _ByOperations(torch.autograd.Function):
    """The same by torch's operations, which a memory profiler then sees one by one."""

    @staticmethod
    def forward(ctx, x, rule):
        ctx.save_for_backward(x)
        ctx.rule = rule
        return operations.normalise(x, rule)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_y):
        return operations.gradient(*ctx.saved_tensors, of_y, ctx.rule), None


def written_out(x: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W) -> same, as in F.local_response_norm, in float32 or better: autograd keeps four tensors of
    this size."""
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
