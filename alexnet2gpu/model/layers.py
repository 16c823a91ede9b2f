"""The layers that torch lacks or does otherwise, and `build_layer`, which makes a module of any layer in a
config.

    Dropout   with a generator of its own, scaled as in 2012 or as today

The convolution is in conv.py, response normalisation in norm/, max-pooling in pool.py, the fully connected
layer in linear.py. No layer looks beyond the channels that it is given, so in a tower none crosses into
another tower.
"""

from contextlib import nullcontext

import torch
from torch import nn

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.config.keys import Memory
from alexnet2gpu.config.layers import Layer
from alexnet2gpu.config.network import Row
from alexnet2gpu.model.conv import Conv2d
from alexnet2gpu.model.linear import Linear
from alexnet2gpu.model.norm.layer import ResponseNorm
from alexnet2gpu.model.pool import MaxPool2d


def build_layer(row: Row, before: Layer | None, memory: Memory) -> nn.Module:
    """The module for a layer in its place; its weights are not yet drawn.

    `before` is the layer that stands before it in its stage, None if it is the first.
    """
    layer, reads, gives = row.layer, row.reads, row.gives
    match layer:
        case kinds.Conv():
            module = Conv2d(reads[0], gives[0], layer.kernel, layer.stride, layer.pad)
            module.overhang, module.keep_padded = layer.overhang(reads, gives), not memory.image_unpadded
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


class Masks:
    """The masks that a generator draws from now on, once more: a context for a stage that is computed again.
    Afterwards it goes on from where it was, so that the next pass has masks of its own. Nothing for None."""

    def __init__(self, generator: torch.Generator | None):
        self.generator, self.state = generator, generator and generator.get_state()

    def contexts(self):
        """Of the first time, of the second: as torch.utils.checkpoint asks for them."""
        return nullcontext(), self if self.generator else nullcontext()

    def __enter__(self):
        self.later = self.generator.get_state()
        self.generator.set_state(self.state)

    def __exit__(self, *error):
        self.generator.set_state(self.later)


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
        dropped = torch.where(mask, x, 0)
        return dropped / kept if self.scaling == "inverted" and kept else dropped

    def extra_repr(self):
        return f"p={self.p}, scaling={self.scaling}"
