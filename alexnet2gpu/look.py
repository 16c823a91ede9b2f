"""What a trained network looks for in images, what it answers, and what it finds alike.

These are the numbers of the paper's figures 3 and 4 (Krizhevsky, Sutskever and Hinton 2012,
section 6.1); figures/ draws them. All towers are on one device, and everything is as in testing:
centre crops, no dropout masks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet2gpu.config.keys import Config
from alexnet2gpu.data.batches import EvaluationBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.runs.evaluate import Trained
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.config.network import trace
from alexnet2gpu.model.step import computing_in, weight_dtype
from alexnet2gpu.runs.folder import read_metrics

BLOCK = 1024  # images whose distances are computed at a time


History = dict[str, tuple[list[int], list[float]]]  # key -> steps, and the values at them


def histories(runs: Sequence[Path]) -> dict[str, History]:
    """What each run's metrics.jsonl has, by the name of its folder, or where two have the same by
    their paths. Raises: ValueError if there is no such file."""
    names = [run.resolve().name for run in runs]
    unique = [str(run) if names.count(name) > 1 else name for run, name in zip(runs, names)]
    return {name: history(run) for name, run in zip(unique, runs)}


def history(run: Path) -> History:
    """What RUN/metrics.jsonl has in lines that are whole; run.py lists the keys.

    Raises: ValueError if there is no such file.
    """
    found, file = {}, run / "metrics.jsonl"
    if not file.is_file():
        raise ValueError(f"{run}: no metrics.jsonl in it: is it the directory of a run?")
    for figures in read_metrics(file):
        for key in figures:
            steps, values = found.setdefault(key, ([], []))
            steps.append(figures["step"])
            values.append(figures[key])
    return found


def kernels(model: AlexNet) -> list[Tensor]:
    """The kernels of the first convolution, (F, C, k, k) for each tower, on the CPU; none if the
    network has no convolution."""
    first = [
        next((p.detach().float().cpu() for p in tower.parameters() if p.dim() == 4), None)
        for tower in model.towers.values()
    ]
    return [weight for weight in first if weight is not None]


def colourfulness(weight: Tensor) -> Tensor:
    """How much of each kernel looks at colour: (F, 3, k, k) -> (F,) float64, from 0,
    grey, to 1.

    At each pixel a kernel has a vector of three weights, for R, G and B. Its part along (1, 1, 1)
    answers to brightness, the rest to colour alone: a grey pixel, whatever its brightness, leaves
    that rest at 0. This is the rest's share of the sum of all squares; 0 if all weights are 0.

    No mean is subtracted. Weights start around 0 and decay to it, so 0 is where they say nothing.
    And a kernel's mean is what it makes of an even patch: without it a blob of one colour, which
    is what the paper's second GPU learned, would count no more than its edges. Weights that were
    drawn and not trained have 2/3, two of three directions being colours.
    """
    colour, all_ = _energies(weight)
    return torch.where(all_ > 0, colour / all_, 0)


def colour_share(weight: Tensor) -> float:
    """`colourfulness` of a tower's kernels (F, 3, k, k) together: strong ones count for more, so
    that those which learned nothing, and are faint noise of all colours, do not count for much."""
    colour, all_ = (energy.sum() for energy in _energies(weight))
    return (colour / all_).item() if all_ > 0 else 0.0


def _energies(weight):
    """(F, 3, k, k) -> (F,), (F,): sums of squares off the grey axis, and of all."""
    weight = weight.double()
    off = weight - weight.mean(1, keepdim=True)  # the mean over RGB is the part along (1, 1, 1)
    return off.square().sum((1, 2, 3)), weight.square().sum((1, 2, 3))


def spread(count: int, most: int) -> np.ndarray:
    """Indices of `most` of `count` images, evenly spread, in order; all if there are no more."""
    most = min(count, most)
    return ((np.arange(most) + 0.5) * count / most).astype(int)


@torch.no_grad()
def features(trained: Trained, images: Images, chosen: np.ndarray) -> Tensor:
    """The last hidden layer, fc7 of AlexNet, for n `chosen` images: (n, F) float32 on the CPU.

    It is what the last layer with weights reads; the dropout of 2012 has halved it, as in all
    testing, which leaves the order of distances as it is. If that layer begins its stage, every
    tower reads the features of all, and tower 0 is asked; otherwise each has its half, and they
    are joined.
    """
    config, model, prepare = trained
    rows = [row for row in trace(config.model) if row.parameters]
    alone = sum(row.stage == rows[-1].stage for row in rows) == 1
    towers = list(model.towers.values())[: 1 if alone else None]
    seen = []
    hooks = [
        tower.get_submodule(rows[-1].name).register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0].float().cpu())
        )
        for tower in towers
    ]
    batches = EvaluationBatches(images, prepare, config.train.batch, 0, 1)
    batches.chosen = chosen  # in place of all
    found = []
    for x, _ in batches:
        with computing_in(config.train.precision, x.device):
            model(x)
        found.append(torch.cat(seen, dim=1))
        seen.clear()
    for hook in hooks:
        hook.remove()
    return torch.cat(found)


def nearest(queries: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` rows of `among` (N, F) that are nearest to each query (Q, F), by Euclidean
    distance: their indices and distances, (Q, count), the nearest first, of equals the first."""
    exact = "donot_use_mm_for_euclid_dist"  # by products of matrices, a row is not at 0 of itself
    blocks = [torch.cdist(queries, block, compute_mode=exact) for block in among.split(BLOCK)]
    distances, order = torch.cat(blocks, dim=1).sort(dim=1, stable=True)
    return order[:, :count], distances[:, :count]


def confusion(labels: np.ndarray, answered: np.ndarray, classes: int) -> np.ndarray:
    """Labels (N,) and answers (N,), each in 0 .. classes - 1 -> (classes, classes): how many
    images of a row's class were taken for the column's."""
    pairs = np.bincount(labels * classes + answered, minlength=classes**2)
    return pairs.reshape(classes, classes)


def most_confused(counts: np.ndarray, most: int) -> Sequence[tuple[int, int, int]]:
    """The most frequent mistakes of a matrix of `confusion`, at most so many: (true class, the one
    it was taken for, how many images)."""
    wrong = counts - np.diag(np.diag(counts))
    places = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(counts)) for place in places]
    return [(true, taken, int(wrong[true, taken])) for true, taken in pairs if wrong[true, taken]]
