"""The layer where numbers stopped being finite, once a loss is infinite or no number.

The optimizer changes nothing from the step of such a loss on (model/optim.py), so its forward pass can be
done once more, with the same weights, images and masks, and looked at layer by layer.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.precision import computing_in
from alexnet2gpu.ranks.groups import Ranks


@torch.no_grad()
def first_not_finite(model: AlexNet, images: Tensor, ranks: Ranks, precision: str) -> str:
    """Of all layers of all ranks, the first whose weights or whose output is not finite. All ranks call it,
    each with the images (B, C, H, W) that its replica saw, and get the same."""
    found = [] if _finite(images) else [(-1, "the images")]  # of this rank: (order, in words)

    def look(order, name, layer, reads, gives):
        if not _finite(gives):
            found.append((order, f"the output of {name}"))

    for order, name, layer in _layers(model):
        layer.register_forward_hook(partial(look, order, name))
    model.train()
    with computing_in(precision, images.device):
        model(images)
    in_weights = first_weights_not_finite(model, ranks)
    found = sum(ranks.gather(found), [])  # of all
    return in_weights or (min(found)[1] if found else "the loss itself")


@torch.no_grad()
def first_weights_not_finite(model: AlexNet, ranks: Ranks) -> str | None:
    """The layer whose weights were the first not to be finite; None if all are. Gradients come from the last
    layer down, so of several it is the last. All ranks call it and get the same."""
    found = [
        (order, f"the gradient of {name}, a step earlier")
        for order, name, layer in _layers(model)
        if not all(map(_finite, layer.parameters()))
    ]
    found = sum(ranks.gather(found), [])  # of all ranks
    return max(found)[1] if found else None


def way_out(folder: Path, saved: int) -> str:
    """What can be done, if the last checkpoint of a run is of the step `saved`; 0: there is none."""
    lower = "with lower rates, as by --set optim.schedule.0.weights=0.001"
    again = f"go on with --out {folder} --resume {lower}" if saved else f"start again {lower}"
    return f"last good checkpoint: {f'step {saved}' if saved else 'none'}: {again}"


def _layers(model):
    """Of each layer of all towers here: its place in the tower from 0, its name, itself."""
    for index, tower in model.towers.items():
        for order, (name, layer) in enumerate(tower.named_children()):
            yield order, f"towers.{index}.{name}", layer


def _finite(tensor):
    return bool(tensor.isfinite().all())
