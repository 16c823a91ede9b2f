"""Images that a network finds alike: the paper's figure 4, right."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet2gpu.config.network import trace
from alexnet2gpu.data.batches import EvaluationBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.figures.page import RIGHT, WIDTH, picture, pyplot, save, short, spread
from alexnet2gpu.model.precision import computing_in
from alexnet2gpu.runs.evaluate import Trained

BLOCK = 1024  # images whose distances are computed at a time


@torch.no_grad()
def features(trained: Trained, images: Images, chosen: np.ndarray) -> Tensor:
    """The last hidden layer, fc7 of AlexNet, for n `chosen` images: (n, F) float32 on the CPU.

    It is what the last layer with weights reads; the dropout of 2012 has halved it, as in all testing, which
    leaves the order of distances as it is. If that layer begins its stage, every tower reads the features of
    all, and tower 0 is asked; otherwise each has its half, and they are joined.
    """
    config, model, prepare = trained
    rows = [row for row in trace(config.model) if row.parameters]
    alone = sum(row.stage == rows[-1].stage for row in rows) == 1
    towers = list(model.towers.values())[: 1 if alone else None]
    seen, found = [], []

    def keep(module, inputs):
        seen.append(inputs[0].float().cpu())

    hooks = [tower.get_submodule(rows[-1].name).register_forward_pre_hook(keep) for tower in towers]
    batches = EvaluationBatches(images, prepare, config.train.batch)
    batches.chosen = chosen  # instead of all
    for x, _ in batches:
        with computing_in(config.train.precision, x.device):
            model(x)
        found.append(torch.cat(seen, dim=1))
        seen.clear()
    for hook in hooks:
        hook.remove()
    return torch.cat(found)


def nearest(queries: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` rows of `among` (N, F) that are nearest to each query (Q, F), by Euclidean distance: their
    indices and distances, (Q, count), the nearest first, of equals the first."""
    exact = "donot_use_mm_for_euclid_dist"  # by products of matrices, a row is not at 0 of itself
    blocks = [torch.cdist(queries, block, compute_mode=exact) for block in among.split(BLOCK)]
    distances, order = torch.cat(blocks, dim=1).sort(dim=1, stable=True)
    return order[:, :count], distances[:, :count]


def find_neighbours(
    trained: Trained, images: Images, train: Images, among: int, few: int = 5, count: int = 6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A `few` of the images, evenly spread, and the `count` training images nearest to each, `among` as many
    of them: indices (few,), indices (few, count), distances (few, count)."""
    chosen, many = spread(len(images), few), spread(len(train), among)
    queries, others = features(trained, images, chosen), features(trained, train, many)
    near, distances = nearest(queries, others, count)
    return chosen, many[near.numpy()], distances.numpy()


def draw(
    images: Images, chosen: Sequence[int], train: Images, near: np.ndarray, distances: np.ndarray, file: Path
) -> None:
    """Each of n chosen images, and beside it the training images nearest to it, with their classes and
    distances; names in another colour where the class is the same.

    Args:
        near: (n, k) indices of training images, the nearest first.
        distances: (n, k), in units of the activations.
    """
    down, across = len(chosen), near.shape[1] + 2  # the second column is a gap
    size, widths = (WIDTH, 1.5 * down + 0.6), [1, 0.15] + [1] * (across - 2)
    look = {"layout": "constrained", "width_ratios": widths, "squeeze": False}
    figure, grid = pyplot().subplots(down, across, figsize=size, **look)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, image in enumerate(chosen):
        _show(grid[row, 0], images, image, "validation", RIGHT)
        for axes, other, distance in zip(grid[row, 2:], near[row], distances[row]):
            same = train.labels[other] == images.labels[image]
            _show(axes, train, int(other), f"at {distance:#.3g}", RIGHT if same else "black")
    figure.suptitle(
        "Validation images, and the training images nearest to them by Euclidean distance in the last "
        "hidden layer\n(where the class is the same, its name is coloured)",
        fontsize=10,
    )
    save(figure, file)


def _show(axes, images, image, words, colour):
    axes.imshow(picture(images.pixels[image, :, :]))
    name = short(images.names[images.labels[image]], 16)
    axes.set_title(f"{name}\n{words}", fontsize=8, color=colour)
