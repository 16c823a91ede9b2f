"""What a trained network looks for, answers, and finds alike: the paper's figures 3 and 4.

Krizhevsky, Sutskever and Hinton 2012, section 6.1. In figure 3, the kernels of one GPU are mostly
grey and those of the other mostly coloured: the towers share no maps before conv3, and what one
has found the other need not find again. The paper calls it specialisation, and says that it comes
in every run, whatever the weights it started from.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from alexnet2gpu.data.images import Images
from alexnet2gpu.figures.page import OTHER, RIGHT, picture, pyplot, save, short
from alexnet2gpu.data.images import name_of
from alexnet2gpu.look import most_confused

ACROSS = 16  # kernels in a row, as in the paper
NAMED = 30  # classes whose names still fit the axes of the matrix of confusions


def filters(kernels: Sequence[Tensor], shares: Sequence[float] | None, file: Path) -> None:
    """All kernels of the first convolution, a tower's above the next tower's, on one scale from
    the smallest weight of all (black) to the largest (white).

    Args:
        kernels: of each tower, (F, C, k, k).
        shares: how much colour each tower carries, 0 to 1 (look.colour_share); None if the
            network sees no colours.
    """
    plt = pyplot()
    least = min(weight.min().item() for weight in kernels)
    most = max(weight.max().item() for weight in kernels)
    scaled = [(weight - least) / max(most - least, 1e-12) for weight in kernels]
    tiles = [_tiled(weight.permute(0, 2, 3, 1).numpy()) for weight in scaled]
    height = sum(9 * len(tile) / tile.shape[1] + 0.35 for tile in tiles)
    figure, grid = plt.subplots(len(tiles), figsize=(9.2, height + 0.4), layout="constrained",
                                squeeze=False)  # fmt: skip
    for tower, (axes, tile) in enumerate(zip(grid[:, 0], tiles)):
        axes.imshow(tile, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"tower {tower}", loc="left", fontsize=10)
        if shares is not None:
            words = f"{shares[tower]:.0%} of the weights' energy is colour (untrained: 67%)"
            axes.set_title(words, loc="right", fontsize=10)
    count, (_, _, side, _) = sum(map(len, kernels)), kernels[0].shape
    figure.suptitle(f"{count} kernels of the first layer, {side}×{side} pixels: weights from "
                    f"{least:.3g} (black) to {most:.3g} (white)", fontsize=11)  # fmt: skip
    save(figure, file)


def _tiled(kernels):
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


def predictions(
    images: Images, chosen: Sequence[int], probabilities: np.ndarray, file: Path
) -> None:
    """Each chosen image under the name of its class, and below it the five likeliest classes with
    their probabilities as bars, the true one in another colour.

    Args:
        probabilities: (N, outputs), of all N images.
    """
    plt = pyplot()
    across = min(4, len(chosen))
    down = -(-len(chosen) // across)
    figure, grid = plt.subplots(
        2 * down, across, figsize=(2.7 * across, 4.3 * down + 0.4), layout="constrained",
        height_ratios=[2.4, 1.4] * down, squeeze=False,
    )  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
    for number, image in enumerate(chosen):
        row, column = divmod(number, across)
        above, below = grid[2 * row, column], grid[2 * row + 1, column]
        label = int(images.labels[image])
        above.imshow(picture(images.pixels[image, :, :]))
        above.set_title(short(name_of(images, label), 28), fontsize=10)
        _bars(below, images, label, probabilities[image])
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (RIGHT, OTHER)]
    figure.legend(handles, ["the true class", "another"], loc="outside lower center", ncols=2,
                  frameon=False)  # fmt: skip
    figure.suptitle("Validation images, and the probabilities of the five likeliest classes")
    save(figure, file)


def _bars(axes, images, label, probabilities):
    """Names lie over the bars, where they have the whole width."""
    likeliest = np.argsort(-probabilities, kind="stable")[:5]
    for place, answer in enumerate(likeliest):
        share = probabilities[answer]
        axes.barh(place, share, 0.85, color=RIGHT if answer == label else OTHER)
        axes.text(0.02, place, short(name_of(images, int(answer)), 22), va="center", fontsize=8)
        axes.text(0.99, place, f"{share:.1%}", va="center", ha="right", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(4.6, -0.6)


def neighbours(
    images: Images, chosen: Sequence[int], train: Images, near: np.ndarray, distances: np.ndarray,
    file: Path,
) -> None:  # fmt: skip
    """Each of n chosen images, and beside it the training images nearest to it, with their classes
    and distances; names in another colour where the class is the same.

    Args:
        near: (n, k) indices of training images, the nearest first.
        distances: (n, k), in units of the activations.
    """
    plt = pyplot()
    down, across = len(chosen), near.shape[1] + 2  # the second column is a gap
    figure, grid = plt.subplots(
        down, across, figsize=(1.55 * (across - 0.7), 1.95 * down + 0.6), layout="constrained",
        width_ratios=[1, 0.15] + [1] * (across - 2), squeeze=False,
    )  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
    for row, image in zip(range(down), chosen):
        label = int(images.labels[image])
        _titled(grid[row, 0], images, image, "validation", RIGHT)
        for column, (other, distance) in enumerate(zip(near[row], distances[row])):
            same = int(train.labels[other]) == label
            words = f"at {distance:#.3g}"
            _titled(grid[row, column + 2], train, int(other), words, RIGHT if same else "black")
    figure.suptitle("Validation images, and the training images nearest to them by Euclidean "
                    "distance in the last hidden layer\n(where the class is the same, its name is "
                    "coloured)", fontsize=11)  # fmt: skip
    save(figure, file)


def _titled(axes, images, image, words, colour):
    axes.imshow(picture(images.pixels[image, :, :]))
    name = short(name_of(images, int(images.labels[image])), 18)
    axes.set_title(f"{name}\n{words}", fontsize=8, color=colour)


def confusion(counts: np.ndarray, images: Images, file: Path) -> None:
    """The matrix of confusions, each row as shares of its class's images, and the most frequent
    confusions by name.

    Args:
        counts: (classes, classes) of look.confusion.
        images: that were classified, for the classes' names.
    """
    plt = pyplot()
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, (axes, beside) = plt.subplots(1, 2, figsize=(11.5, 7), layout="constrained",
                                          width_ratios=[2.7, 1])  # fmt: skip
    shown = axes.imshow(100 * shares, vmin=0, vmax=100, cmap="Blues", interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="% of the true class's images", shrink=0.7)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    if classes <= NAMED:
        names = [short(name_of(images, label), 20) for label in range(classes)]
        axes.set_xticks(range(classes), names, rotation=90, fontsize=8)
        axes.set_yticks(range(classes), names, fontsize=8)
    right = np.trace(counts) / max(counts.sum(), 1)
    figure.suptitle(f"{counts.sum():,} validation images, {right:.1%} right")
    lines = ["Most frequent confusions", ""]
    for true, taken, count in most_confused(counts, 10):
        pair = [short(name_of(images, label), 22) for label in (true, taken)]
        lines.append(f"{pair[0]}\n  taken for {pair[1]}:\n  {count} of {counts[true].sum()}")
    beside.text(0, 1, "\n".join(lines), va="top", fontsize=8.5, in_layout=False)
    beside.set_axis_off()
    save(figure, file)
