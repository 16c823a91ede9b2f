"""Costs of each kind of layer: what it makes torch hold, one `Cost` for each node of autograd that it adds.

    layer                keeps for backward           at its worst, forward     backward
    conv, linear         input (c)                    gives + c                 reads + p or c
    conv, overhanging    input                        padded + c + gives        padded + c + p
    lrn, map_norm        input                        gives + 2 s               gives + 3 s
    max_pool             places, 2 bytes each         gives + 10 bytes each     reads + 8 bytes each
    - by a kernel        places, 1 byte each          gives + 1 byte each       reads
    avg_pool             input                        gives                     reads
    dropout              mask, 1 byte each            mask + gives              reads
    relu                 output, in place             0                         reads
    tanh, sigmoid        output                       gives                     reads
    flatten              nothing                      gives: maps are copied    0: a view

Bytes, of all images that the rank computes on:

    reads, gives   of the layer's input and output; each: for an element of the output
    padded         of the input with the zeros over which its last windows hang
    p              of its parameters, and of their gradients
    c              of its parameters' copies in bfloat16, which exist under autocast only
    s              of the images that normalisation works on at once, in float32 or wider; where these are
                   all images, its result is one of the s. 0 if a kernel does it, but for one s backward in
                   map_norm on a GPU, in float32

The figures follow from the operations in model/norm/ and model/conv.py and from the derivatives in
torch's derivatives.yaml, one by one. Scratch memory inside an operation is not in them.
"""

import math
from dataclasses import dataclass
from functools import partial

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.config.keys import Memory
from alexnet2gpu.config.layers import Layer
from alexnet2gpu.config.network import Row
from alexnet2gpu.model import pool
from alexnet2gpu.model.norm import operations
from alexnet2gpu.model.norm.layer import suits_triton


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One node of autograd. `forward` and `backward` are the most that comes on top of what was held before
    the node began, its own results included."""

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
    """What all sizes depend on."""

    images: int  # on this rank
    on_gpu: bool
    kernel: bool  # whether there are kernels: C on the CPU, Triton on a GPU
    weight: int  # bytes of an element of weights, gradients, momentum and images
    compute: int  # bytes of an element that a convolution or a linear layer gives


def costs(row: Row, before: Layer | None, width: int, sizes: Sizes, levers: Memory) -> list[Cost]:
    """The nodes of a layer, in the order of the forward pass. `before`: the layer that stands before it in
    its stage, None if it is the first; `width`: bytes of an element of its input."""
    layer = row.layer
    inputs, outputs = (sizes.images * math.prod(shape) for shape in (row.reads, row.gives))
    reads, gives = width * inputs, width * outputs
    node = partial(Cost, width=width, gradient=reads)
    match layer:
        case kinds.Conv() | kinds.Linear():
            return _weighted(row, row.stage == 0 and before is None, width, sizes, levers)
        case kinds.ResponseNorm():
            return [_normalisation(row, width, sizes, levers)]
        case kinds.MaxPool() if levers.pool_places_only:
            if sizes.on_gpu and sizes.kernel and pool.suits_triton(layer.kernel, width):
                return [node(gives=gives, keeps=outputs, forward=gives + outputs, backward=reads)]
            place = 2 if math.prod(row.reads[1:]) <= 2**15 else 4
            forward, backward = gives + (8 + place) * outputs, 8 * outputs + reads
            return [node(gives=gives, keeps=place * outputs, forward=forward, backward=backward)]
        case kinds.MaxPool():
            more = 8 * outputs
            return [node(gives=gives, keeps_input=True, keeps=more, forward=gives + more, backward=reads)]
        case kinds.AvgPool():
            return [node(gives=gives, keeps_input=True, forward=gives, backward=reads)]
        case kinds.Dropout():
            mask = node(gives=gives, keeps=outputs, forward=gives + outputs, backward=reads)
            scale = node(gives=gives, forward=gives, backward=reads)
            return [mask, scale] if layer.scaling == "inverted" and layer.p < 1 else [mask]
        case kinds.Relu() | kinds.Tanh() | kinds.Sigmoid():
            own = 0 if levers.overwrites(layer, before) else gives
            return [node(gives=own, keeps_output=True, forward=own, backward=reads)]
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
        wide, narrow = padded * width, elements * width
        nodes.append(Cost(gives=wide, width=width, forward=wide, gradient=narrow, backward=narrow))
        elements = padded
    cast = elements * compute if width != compute else 0
    gradient = 0 if reads_images else elements * compute
    forward, backward = cast + sum(copies) + gives, gradient + sum(copies or parameters)
    kept = {"keeps_input": not cast, "keeps": cast, "cached": copies, "keeps_cached": bool(copies)}
    node = partial(Cost, gives=gives, width=compute, parameters=parameters, copies=copies)
    return [*nodes, node(**kept, forward=forward, gradient=gradient, backward=backward)]


def _overhanging(padded, gives, reads_images, width, compute, parameters, copies):
    """model.conv.Conv2d with an overhang, which reads `padded` elements. (Blocks, on a GPU, hold as many and
    what fills up the last ones, and need no cast; it is not counted.)"""
    cast = padded * compute if width != compute else 0
    gradient = 0 if reads_images else padded * compute
    computing = padded * compute + sum(copies[:1]) + gradient + sum(copies or parameters)
    forward = padded * width + sum(copies) + cast + gives
    backward = max(padded * width + cast, computing, gradient + sum(copies) + sum(parameters))
    node = partial(Cost, gives=gives, width=compute, parameters=parameters, cached=copies)
    return node(keeps_input=True, forward=forward, gradient=gradient, backward=backward)


def _normalisation(row, width, sizes, levers):
    """ResponseNorm, with `keep_all` or without."""
    each = math.prod(row.reads)
    elements = sizes.images * each
    gives, wide = width * elements, max(width, 4) * elements
    node = partial(Cost, gives=gives, width=width, gradient=gives)
    if levers.norm_input_only:
        at_once = min(sizes.images, _images_at_once(row.layer.rule, each, width, sizes))
        some = max(width, 4) * each * at_once
        on_top = (some if width < 4 else 0) + (gives if at_once < sizes.images else 0)
        forward, backward = on_top + 2 * some, on_top + 3 * some
        if sizes.on_gpu and not at_once and not row.layer.rule.across_maps:
            backward += 4 * each * min(sizes.images, operations.images_at_once(each, True))
        return node(keeps_input=True, forward=forward, backward=backward)
    cast = wide if width < 4 else 0
    maps = row.reads[0]
    beyond = row.layer.size - 1 if isinstance(row.layer, kinds.Lrn) else 0
    squares = wide // maps * (maps + beyond)
    keeps = cast + squares + 2 * wide
    forward = cast + squares + 3 * wide + (gives if cast else 0)
    backward = 4 * wide + (wide - gives if cast else 0)
    return node(keeps_input=not cast, keeps=keeps, forward=forward, backward=backward)


def _images_at_once(rule, elements, width, sizes):
    """How many images, of `elements` of `width` bytes each, have temporaries at a time; 0 where a kernel
    does it."""
    kernel = sizes.kernel and (not sizes.on_gpu or suits_triton(rule, width))
    return 0 if kernel else operations.images_at_once(elements, sizes.on_gpu)
