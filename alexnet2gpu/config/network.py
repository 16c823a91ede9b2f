"""A network as data: towers, and stages of named layers. Shapes and costs are computed on paper.

Every tower runs a stage on its own channels. Where a stage ends the towers exchange, and the next stage of
each tower reads the channels of all of them. layers.py says what a layer can be.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from alexnet2gpu.config import layers
from alexnet2gpu.config.layers import Layer, Shape
from alexnet2gpu.config.schema import Problem, bounded


@dataclass(frozen=True, kw_only=True)
class Network:
    """The `model` section of a config: number of towers, image shape (C, H, W), stages of named layers."""

    towers: int = bounded(least=1, most=1024)
    input: tuple[int, int, int] = bounded(least=1, most=2**16)
    stages: tuple[dict[str, Layer], ...] = ()

    @property
    def last(self) -> Layer:
        """The layer that gives the logits."""
        return list(self.stages[-1].values())[-1]

    @property
    def convolutional(self) -> int:
        """How many stages come before the first that has a fully connected layer or dropout."""
        others = (layers.Linear, layers.Dropout)
        found = (any(isinstance(layer, others) for layer in stage.values()) for stage in self.stages)
        return next((number for number, other in enumerate(found) if other), len(self.stages))

    @property
    def mixed(self) -> bool:
        """Whether there are such stages, with a convolution in one of them, and others."""
        first = self.stages[: self.convolutional]
        found = any(isinstance(layer, layers.Conv) for stage in first for layer in stage.values())
        return found and len(first) < len(self.stages)


class Row(NamedTuple):
    """One layer in its place; counts are per tower and, for multiply-adds, per image."""

    stage: int
    name: str
    layer: Layer
    reads: Shape
    gives: Shape
    parameters: int
    multiply_adds: int


def trace(network: Network) -> list[Row]:
    """Follow one image through one tower. Raises: ValueError naming the layer whose input does not suit it,
    or whose channels do not divide by the towers."""
    rows, shape = [], network.input
    for stage, named in enumerate(network.stages):
        for name, layer in named.items():
            try:
                gives = layer.gives(shape, network.towers)
            except ValueError as error:
                raise Problem(f"model.stages.{stage}.{name}", str(error)) from None
            kernel = layer.weight_shape(shape, gives)
            weights, biases = (math.prod(kernel), gives[0]) if kernel else (0, 0)
            multiply_adds = weights * math.prod(gives[1:])
            rows.append(Row(stage, name, layer, shape, gives, weights + biases, multiply_adds))
            shape = gives
        shape = (network.towers * shape[0], *shape[1:])  # the exchange: all towers' channels
    return rows


def tensors(network: Network) -> int:
    """How many parameters there are, each counted as one: weights and biases of layers, in all towers."""
    return network.towers * sum(2 for row in trace(network) if row.parameters)


def totals(network: Network) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image, of all towers together."""
    rows, towers = trace(network), network.towers
    return towers * sum(row.parameters for row in rows), towers * sum(row.multiply_adds for row in rows)


class Traffic(NamedTuple):
    """Bytes that one tower sends to all others for each image, at the end of a stage."""

    forward: int
    backward: int


def traffic(network: Network, bytes_per_element: int = 4) -> list[Traffic]:
    """What each stage's end costs, with every tower on a rank of its own.

    Forward, a tower sends its half to the n - 1 others; backward, to each of them the gradient of theirs,
    which is as large. The last stage gives the logits, whose gradient every rank has complete.
    """
    ends = {row.stage: math.prod(row.gives) for row in trace(network)}
    *exchanged, logits = [(network.towers - 1) * bytes_per_element * elements for elements in ends.values()]
    return [*(Traffic(sent, sent) for sent in exchanged), Traffic(logits, 0)]
