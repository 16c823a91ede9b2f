"""The layers that torch lacks or does otherwise, and `build_layer`, which makes a module of any layer in a
config.

    Conv2d           a convolution, channels last in memory
    OverhangConv2d   one whose last windows hang over the edge (`ceil: true`)
    Dropout          with a generator of its own, scaled as in 2012 or as today

Response normalisation is in norm/, max-pooling in pool.py, the fully connected layer in linear.py. No layer
looks beyond the channels that it is given, so in a tower none crosses into another tower.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.config.keys import Memory
from alexnet2gpu.config.layers import Layer
from alexnet2gpu.config.network import Row
from alexnet2gpu.model.linear import Linear
from alexnet2gpu.model.norm.layer import ResponseNorm
from alexnet2gpu.model.plain import plain
from alexnet2gpu.model.pool import MaxPool2d


def build_layer(row: Row, before: Layer | None, memory: Memory) -> nn.Module:
    """The module for a layer in its place; its weights are not yet drawn.

    `before` is the layer that stands before it in its stage, None if it is the first.
    """
    layer, reads, gives = row.layer, row.reads, row.gives
    match layer:
        case kinds.Conv():
            square = layer.kernel, layer.stride, layer.pad
            overhang = layer.overhang(reads, gives)
            if not any(overhang):
                return Conv2d(reads[0], gives[0], *square)
            module = OverhangConv2d(reads[0], gives[0], *square)
            module.overhang, module.keep_padded = overhang, not memory.image_unpadded
            return module
        case kinds.Linear():
            return Linear(reads[0], gives[0])
        case kinds.MaxPool():
            kind = MaxPool2d if memory.pool_places_only else nn.MaxPool2d
            return kind(layer.kernel, layer.stride, layer.pad, ceil_mode=layer.ceil)
        case kinds.AvgPool():
            return nn.AvgPool2d(layer.kernel, layer.stride, layer.pad)
        case kinds.ResponseNorm():
            return ResponseNorm(layer.rule, keep_all=not memory.norm_input_only)
        case kinds.Dropout():
            return Dropout(layer.p, layer.scaling)
        case kinds.Flatten():
            return nn.Flatten()
        case kinds.Relu():
            return nn.ReLU(inplace=memory.overwrites(layer, before))
        case kinds.Tanh():
            return nn.Tanh()
        case kinds.Sigmoid():
            return nn.Sigmoid()
    raise AssertionError(f"no module for {layer}")


@torch.no_grad()
def draw_weights(module: nn.Module, layer: Layer, seed: int) -> None:
    """Draw initial weights, on the CPU in float32 whatever the module's; biases are constant. On the meta
    device there is nothing to draw.

    `init: xavier` is the uniform distribution of Glorot and Bengio (2010), from -b to b with b = sqrt(6 /
    (fan_in + fan_out)).
    """
    if module.weight.is_meta:
        return
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(module.weight.shape, dtype=torch.float32, device="cpu")
    if layer.init == "xavier":
        nn.init.xavier_uniform_(weight, generator=generator)
    else:
        weight.normal_(0, layer.init, generator=generator)
    module.weight.copy_(weight)
    module.bias.fill_(layer.bias)


class Conv2d(nn.Conv2d):
    """(B, C, H, W) -> (B, C', H', W'), weights (C', C, k, k) with channels last in memory: maps and gradients
    then have them last too. They are left for `draw_weights` to fill."""

    def reset_parameters(self):
        last = torch.empty_like(self.weight, memory_format=torch.channels_last)
        self.weight = nn.Parameter(last)


class OverhangConv2d(Conv2d):
    """(B, C, H, W) -> (B, C', H', W'), reading zeros beyond the lower and the right edge.

    With 224 pixels, a kernel of 11 and a stride of 4, 55 windows overhang by 3: as the kernels of 2012 did
    it, and why the paper's first layer is 55x55. Keeps x as it came, and pads it again in backward.
    """

    overhang = 0, 0  # pixels below and to the right
    keep_padded = False

    def forward(self, x):
        if self.keep_padded or plain():
            return super().forward(_padded(x, self.overhang))
        window = self.overhang, self.stride, self.padding
        return _OverhangConv.apply(x, self.weight, self.bias, *window)


def _padded(x, overhang):
    """(B, C, H, W) -> (B, C, H + below, W + right), with zeros there."""
    below, right = overhang
    return F.pad(x, (0, right, 0, below))


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
        need_x, dtype = ctx.needs_input_grad[0], gradient.dtype
        tensors = gradient, _padded(x, overhang).to(dtype), weight.to(dtype)
        of_padded, of_weight, of_bias = convolution_backward(*tensors, window, (need_x, True, True))
        _, _, height, width = x.shape
        of_x = of_padded[:, :, :height, :width].to(x.dtype) if need_x else None
        return of_x, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None, None


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, window: tuple, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x (B, C, H, W), weight (C', C, k, k) and bias (C',) of F.conv2d, as many as are `wanted`,
    from that of its output (B, C', H', W'). `window`: stride and padding."""
    rest = (1, 1), False, (0, 0), 1  # dilation, transposed, output padding, groups
    biases = [len(weight)]
    return torch.ops.aten.convolution_backward(gradient, x, weight, biases, *window, *rest, wanted)


class Dropout(nn.Module):
    """Training: each activation is 0 with probability p. Two scalings, equal in expectation:

    scaling     training             testing
    2012        mask * x             (1 - p) * x
    inverted    mask * x / (1 - p)   x

    `generator` draws the masks; None is torch's global one.
    """

    def __init__(self, p: float, scaling: str):
        super().__init__()
        self.p, self.scaling, self.generator = p, scaling, None

    def forward(self, x):
        kept = 1 - self.p
        if not self.training:
            return x if self.scaling == "inverted" else x * kept
        mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(kept, generator=self.generator)
        dropped = x * mask
        return dropped / kept if self.scaling == "inverted" and kept else dropped

    def extra_repr(self):
        return f"p={self.p}, scaling={self.scaling}"
