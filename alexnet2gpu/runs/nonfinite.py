"""Where numbers stop being finite: the layer, once a loss is infinite or no number.

The optimizer changes nothing from the step of such a loss on (model/optim.py), so its forward pass can
be done once more, with the same weights, images and masks, and looked at layer by layer.
"""

import torch
from torch import Tensor

from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.step import computing_in
from alexnet2gpu.ranks.groups import Ranks


@torch.no_grad()
def first_not_finite(model: AlexNet, images: Tensor, ranks: Ranks, precision: str) -> str:
    """Of all layers of all ranks, the first whose weights or whose output is not finite.

    All ranks call it, each with the images (B, C, H, W) that its replica saw, and get the same.
    """
    found = []  # of this rank: (order, in words)
    for index, tower in model.towers.items():
        for order, (name, layer) in enumerate(tower.named_children()):
            layer.register_forward_hook(_look(found, order, f"towers.{index}.{name}"))
    if not _finite(images):
        found.append((-1, "the images"))
    model.train()
    with computing_in(precision, images.device):
        model(images)
    in_weights = first_weights_not_finite(model, ranks)
    everywhere = sum(ranks.gather(found), [])
    return in_weights or (min(everywhere)[1] if everywhere else "the loss itself")


@torch.no_grad()
def first_weights_not_finite(model: AlexNet, ranks: Ranks) -> str | None:
    """The layer whose weights were the first not to be finite; None if all are. Gradients come
    from the last layer down, so of several it is the last. All ranks call it and get the same."""
    found = [
        (order, f"the gradient of towers.{index}.{name}, a step earlier")
        for index, tower in model.towers.items()
        for order, (name, layer) in enumerate(tower.named_children())
        if not all(map(_finite, layer.parameters()))
    ]
    everywhere = sum(ranks.gather(found), [])
    return max(everywhere)[1] if everywhere else None


def _look(found, order, name):
    def hook(layer, reads, gives):
        if not _finite(gives):
            found.append((order, f"the output of {name}"))

    return hook


def _finite(tensor):
    return bool(tensor.isfinite().all())
