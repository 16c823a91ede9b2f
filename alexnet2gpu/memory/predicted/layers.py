"""What each kind of layer makes torch hold: one `Cost` for each node of autograd that it adds.

Bytes are those of all images that the rank computes on. `reads` and `gives` below are the bytes of
a layer's input and output; p those of its parameters; c their bfloat16 copies, which exist under
autocast only; s those of the images that normalisation works on at once, float32 or wider, none if
a kernel does it, and where these are all images its result is one of the s.

    layer               keeps for backward           at its worst, forward     backward
    conv, linear        input (c)                    gives + c                 reads + p or c
    conv, overhanging   input                        padded + c + gives        padded + c + p
    lrn, map_norm       input                        gives + 2 s               gives + 3 s
    max_pool            places, 2 bytes each         gives + 10 bytes each     reads + 8 bytes each
    avg_pool            input                        gives                     reads
    dropout             mask, 1 byte each            mask + gives              reads
    relu                output, in place             0                         reads
    tanh, sigmoid       output                       gives                     reads
    flatten             nothing                      gives: maps are copied    0: a view

The figures follow from the operations in norm/ and layers.py and from the derivatives in torch's
derivatives.yaml, one by one. Scratch memory inside an operation is not in them.
"""

import math
from dataclasses import dataclass

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.config.keys import Memory
from alexnet2gpu.config.layers import Layer
from alexnet2gpu.config.network import Row
from alexnet2gpu.model.norm import operations


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One node of autograd. `forward` and `backward` are the most that comes on top of what was
    held before the node began, its own results included."""

    gives: int = 0  # bytes of the output; 0 if it lies where the input does
    width: int  # bytes of an element of the output
    keeps_input: bool = False
    keeps_output: bool = False
    keeps: int = 0  # further bytes kept for backward
    cached: tuple[int, ...] = ()  # bfloat16 weight and bias, autocast's till forward ends
    keeps_cached: bool = False  # whether backward needs that weight
    forward: int = 0
    gradient: int = 0  # bytes of the input's gradient; 0 if it lies where the output's does
    backward: int = 0
    parameters: tuple[int, ...] = ()  # bytes of the gradients of weight and bias
    copies: tuple[int, ...] = ()  # of the bfloat16 ones that the node leaves at first


@dataclass(frozen=True)
class Sizes:
    """What all sizes depend on.

    images    on this rank
    on_gpu    or on the CPU
    kernel    whether a kernel normalises: C on the CPU, Triton on a GPU
    weight    bytes of an element of weights, gradients, momentum and images
    compute   bytes of an element that a convolution or a linear layer gives
    """

    images: int
    on_gpu: bool
    kernel: bool
    weight: int
    compute: int


def costs(row: Row, before: Layer | None, width: int, sizes: Sizes, levers: Memory) -> list[Cost]:
    """The nodes of a layer in its place, in the order of the forward pass.

    Args:
        before: the layer that stands before it in its stage, None if it is the first.
        width: bytes of an element of its input.
    """
    layer = row.layer
    inputs, outputs = (sizes.images * math.prod(shape) for shape in (row.reads, row.gives))
    reads, gives = width * inputs, width * outputs
    match layer:
        case kinds.Conv() | kinds.Linear():
            return _weighted(row, row.stage == 0 and before is None, width, sizes, levers)
        case kinds.ResponseNorm():
            return [_normalisation(row, width, sizes, levers)]
        case kinds.MaxPool() if levers.pool_places_only:
            place = 2 if math.prod(row.reads[1:]) <= 2**15 else 4
            return [
                Cost(
                    gives=gives,
                    width=width,
                    keeps=place * outputs,
                    forward=gives + (8 + place) * outputs,
                    gradient=reads,
                    backward=8 * outputs + reads,
                )
            ]
        case kinds.MaxPool():
            return [
                Cost(
                    gives=gives,
                    width=width,
                    keeps_input=True,
                    keeps=8 * outputs,
                    forward=gives + 8 * outputs,
                    gradient=reads,
                    backward=reads,
                )
            ]
        case kinds.AvgPool():
            return [
                Cost(
                    gives=gives, width=width, keeps_input=True, forward=gives, gradient=reads, backward=reads
                )
            ]
        case kinds.Dropout():
            mask = Cost(
                gives=gives,
                width=width,
                keeps=outputs,
                forward=gives + outputs,
                gradient=reads,
                backward=reads,
            )
            scale = Cost(gives=gives, width=width, forward=gives, gradient=reads, backward=reads)
            return [mask, scale] if layer.scaling == "inverted" and layer.p < 1 else [mask]
        case kinds.Relu() | kinds.Tanh() | kinds.Sigmoid():
            own = 0 if levers.overwrites(layer, before) else gives
            return [
                Cost(gives=own, width=width, keeps_output=True, forward=own, gradient=reads, backward=reads)
            ]
        case kinds.Flatten():
            channels, *sides = row.reads  # channels are last in memory, and then first
            copied = gives if channels > 1 and math.prod(sides) > 1 else 0
            return [Cost(gives=copied, width=width, forward=copied)]
    raise AssertionError(f"no cost for {layer}")


def _weighted(row, reads_images, width, sizes, levers):
    """A convolution or a linear layer."""
    images, compute = sizes.images, sizes.compute
    gives = images * math.prod(row.gives) * compute
    weights, biases = row.parameters - row.gives[0], row.gives[0]
    parameters = sizes.weight * weights, sizes.weight * biases
    copies = (compute * weights, compute * biases) if compute != sizes.weight else ()
    below, right = row.layer.overhang(row.reads, row.gives) if len(row.reads) == 3 else (0, 0)
    elements = images * math.prod(row.reads)
    nodes = []
    if below or right:
        channels, height, side = row.reads
        padded = images * channels * (height + below) * (side + right)
        if levers.image_unpadded:
            return [_overhanging(padded, gives, reads_images, width, compute, parameters, copies)]
        nodes.append(
            Cost(
                gives=padded * width,
                width=width,
                forward=padded * width,
                gradient=elements * width,
                backward=elements * width,
            )
        )
        elements = padded
    cast = elements * compute if width != compute else 0
    gradient = 0 if reads_images else elements * compute
    nodes.append(
        Cost(
            gives=gives,
            width=compute,
            keeps_input=not cast,
            keeps=cast,
            cached=copies,
            keeps_cached=bool(copies),
            forward=cast + sum(copies) + gives,
            gradient=gradient,
            backward=gradient + sum(copies or parameters),
            parameters=parameters,
            copies=copies,
        )
    )
    return nodes


def _overhanging(padded, gives, reads_images, width, compute, parameters, copies):
    """layers.OverhangConv2d, `padded` elements."""
    cast = padded * compute if width != compute else 0
    gradient = 0 if reads_images else padded * compute
    computing = padded * compute + sum(copies[:1]) + gradient + sum(copies or parameters)
    return Cost(
        gives=gives,
        width=compute,
        keeps_input=True,
        cached=copies,
        forward=padded * width + sum(copies) + cast + gives,
        gradient=gradient,
        backward=max(padded * width + cast, computing, gradient + sum(copies) + sum(parameters)),
        parameters=parameters,
    )


def _normalisation(row, width, sizes, levers):
    """norm.ResponseNorm, either way."""
    each = math.prod(row.reads)
    elements = sizes.images * each
    gives, wide = width * elements, max(width, 4) * elements
    if levers.norm_input_only:
        at_once = min(sizes.images, _images_at_once(row.layer.rule, each, width, sizes))
        some = max(width, 4) * each * at_once
        on_top = (some if width < 4 else 0) + (gives if at_once < sizes.images else 0)
        return Cost(
            gives=gives,
            width=width,
            keeps_input=True,
            forward=on_top + 2 * some,
            gradient=gives,
            backward=on_top + 3 * some,
        )
    cast = wide if width < 4 else 0
    maps = row.reads[0]
    beyond = row.layer.size - 1 if isinstance(row.layer, kinds.Lrn) else 0
    squares = wide // maps * (maps + beyond)
    return Cost(
        gives=gives,
        width=width,
        keeps_input=not cast,
        keeps=cast + squares + 2 * wide,
        forward=cast + squares + 3 * wide + (gives if cast else 0),
        gradient=gives,
        backward=4 * wide + (wide - gives if cast else 0),
    )


def _images_at_once(rule, elements, width, sizes):
    """How many images, of `elements` of `width` bytes each, have temporaries at a time; 0 where a
    kernel does it, which has none. Triton's is across maps, and not for what is wider than 4."""
    kernel = sizes.kernel and (not sizes.on_gpu or rule.across_maps and width <= 4)
    return 0 if kernel else operations.images_at_once(elements, sizes.on_gpu)
