"""Filters, what the first layer looks for: the paper's figure 3, and how much of it is colour.

Krizhevsky, Sutskever and Hinton 2012, section 6.1. In figure 3, the kernels of one GPU are mostly grey and
those of the other mostly coloured: the towers share no maps before conv3, and what one has found the other
need not find again. The paper calls it specialisation, and says that it comes in every run, whatever the
weights it started from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet2gpu.figures.page import WIDTH, pyplot, save
from alexnet2gpu.model.model import AlexNet

ACROSS = 16  # kernels in a row, as in the paper


def first_kernels(model: AlexNet) -> list[Tensor]:
    """The kernels of the first convolution, (F, C, k, k) for each tower, on the CPU; none if the network has
    no convolution."""
    towers = [[p for p in tower.parameters() if p.dim() == 4] for tower in model.towers.values()]
    return [weights[0].detach().float().cpu() for weights in towers if weights]


def colourfulness(weight: Tensor) -> Tensor:
    """How much of each kernel looks at colour: (F, 3, k, k) -> (F,) float64, from 0, grey, to 1.

    At each pixel a kernel has a vector of three weights, for R, G and B. Its part along (1, 1, 1) answers to
    brightness, the rest to colour alone: a grey pixel, whatever its brightness, leaves that rest at 0. This
    is the rest's share of the sum of all squares; 0 if all weights are 0.

    No mean is subtracted. Weights start around 0 and decay to it, so 0 is where they say nothing. And a
    kernel's mean is what it makes of an even patch: without it a blob of one colour, which is what the
    paper's second GPU learned, would count no more than its edges. Weights that were drawn and not trained
    have 2/3, two of three directions being colours."""
    colour, all_ = _energies(weight)
    return torch.where(all_ > 0, colour / all_, 0)


def colour_share(weight: Tensor) -> float:
    """`colourfulness` of a tower's kernels (F, 3, k, k) together: strong ones count for more, so that those
    which learned nothing, and are faint noise of all colours, do not count for much."""
    colour, all_ = (energy.sum() for energy in _energies(weight))
    return (colour / all_).item() if all_ > 0 else 0.0


def colour_shares(kernels: Sequence[Tensor]) -> list[float] | None:
    """`colour_share` of each tower's kernels; None if the network sees no colours."""
    in_colour = kernels and kernels[0].shape[1] == 3
    return [colour_share(weight) for weight in kernels] if in_colour else None


def _energies(weight):
    """(F, 3, k, k) -> (F,), (F,): sums of squares off the grey axis, and of all."""
    weight = weight.double()
    off = weight - weight.mean(1, keepdim=True)  # the mean over RGB is the part along (1, 1, 1)
    return off.square().sum((1, 2, 3)), weight.square().sum((1, 2, 3))


def draw(kernels: Sequence[Tensor], shares: Sequence[float] | None, file: Path) -> None:
    """All kernels of the first convolution, (F, C, k, k) of each tower, one tower's above the next tower's,
    on one scale from the smallest weight of all (black) to the largest (white); with each, its
    `colour_shares`."""
    plt = pyplot()
    least = min(weight.min().item() for weight in kernels)
    most = max(weight.max().item() for weight in kernels)
    scaled = [(weight - least) / max(most - least, 1e-12) for weight in kernels]
    tiles = [_tile(weight.permute(0, 2, 3, 1).numpy()) for weight in scaled]
    size = WIDTH, sum(WIDTH * len(tile) / tile.shape[1] + 0.35 for tile in tiles) + 0.4
    figure, grid = plt.subplots(len(tiles), figsize=size, layout="constrained", squeeze=False)
    for tower, (axes, tile) in enumerate(zip(grid[:, 0], tiles)):
        axes.imshow(tile, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"tower {tower}", loc="left", fontsize=10)
        if shares is not None:
            words = f"{shares[tower]:.0%} of the weights' energy is colour (untrained: 67%)"
            axes.set_title(words, loc="right", fontsize=10)
    count, side = sum(map(len, kernels)), kernels[0].shape[2]
    words = f"{count} kernels of the first layer, {side}×{side} pixels: weights from "
    figure.suptitle(f"{words}{least:.3g} (black) to {most:.3g} (white)", fontsize=11)
    save(figure, file)


def _tile(kernels):
    """(F, k, k, C), 0 to 1 -> one picture (H, W, 3), row by row, a pixel of white between."""
    if kernels.shape[3] != 3:
        kernels = kernels.mean(3, keepdims=True).repeat(3, axis=3)
    side, across = kernels.shape[1] + 1, min(ACROSS, max(ACROSS // 2, len(kernels)))
    down = -(-len(kernels) // across)
    whole = np.ones((down * side, across * side, 3), np.float32)
    for number, kernel in enumerate(kernels):
        top, left = number // across * side, number % across * side
        whole[top : top + side - 1, left : left + side - 1] = kernel
    return whole[:-1, :-1]
