"""The first batch of a training run: will the network learn, before a week is spent on it?

The weights of a layer can only learn from images if its input differs between images. In deep networks whose
weights start too small it does not: biases and the mean drown what the image adds, more so in every layer,
until the classifier sees the same for all images. It then learns how frequent the classes are, and the loss
stays flat until the layers below have mended that, if ever.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional as F

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import trace
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import rate_of
from alexnet2gpu.model.precision import computing_in, ready

# Signal in the last hidden layer below which images hardly differ. quick.yaml has 0.04 and learns; with all
# its weights a third smaller it has 0.004, and its loss stays flat for 100 steps.
FAINT = 0.02
ACTIVATIONS = kinds.Relu | kinds.Tanh | kinds.Sigmoid


class Health(NamedTuple):
    """Of one layer with weights, all towers together.

    signal: how much its activations, after their nonlinearity, differ between images: the standard deviation
        over images, averaged over units, over the mean of their magnitudes.
    dead: share of units that are 0 for every image.
    step: length of the weights' first step without decay, rate * |gradient|, over that of the weights.
    """

    layer: str
    signal: float
    dead: float
    step: float


class Diagnosis(NamedTuple):
    """What became of the first batch.

    loss: of the batch, as training begins with it.
    even: what the loss would be if the batch had every output as its label equally often. Where the images
        are of fewer classes than there are outputs, `loss` depends on which these are; this does not.
    """

    loss: float
    even: float
    health: list[Health]


def diagnose(config: Config, images: Images, device: torch.device) -> Diagnosis:
    """The first batch forward and backward, all towers on one device. Nothing is trained. How much
    activations differ is measured as in testing, where no dropout masks differ too."""
    train = config.train
    model = ready(AlexNet(config.model, train.seed, memory=config.memory), train, device)
    model.seed_dropout(train.seed, 0, 0)
    batches = TrainBatches(images, config, Preparation(images, config, device))
    x, labels = next(batches.epoch(1))
    with computing_in(train.precision, device):
        seen = _activations(model.eval(), config.model, x)
        logits = model.train()(x)  # (B, classes)
    logits = logits.float()
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    even = (logits.logsumexp(1) - logits.mean(1)).mean()
    health = []
    for layer, towers in seen.items():
        differ, size, dead = torch.stack(towers).mean(0).tolist()
        weights = [tower.get_submodule(layer).weight for tower in model.towers.values()]
        length, gradient = _length(weights), _length([w.grad for w in weights])
        rate = rate_of(config.optim.schedule, 1, layer, "weights")
        health.append(Health(layer, differ / size, dead, rate * gradient / length))
    return Diagnosis(loss.item(), even.item(), health)


def complaint(health: list[Health]) -> str | None:
    """What is wrong with a network whose classifier sees nearly the same for all images, and the way out;
    None if all is well."""
    if len(health) < 2 or health[-2].signal >= FAINT:  # the classifier itself is the last
        return None
    layer, signal, *_ = health[-2]
    return (
        f"hardly anything of an image reaches the classifier: {layer} differs by {signal:.2%} of its mean "
        "between images: the loss will stay flat for long, or for good. Larger initial weights (`init`) in "
        "the layers where the signal is lost, or inputs of a larger scale (`data.divide`), let it through"
    )


def verdict(health: list[Health], momentum: float) -> str:
    """Of a network that images reach. Its rates are too high if steps like the first, summed up by momentum,
    would be longer than a layer's weights: quick.yaml with 0.1 for 0.01 does not live to its second epoch."""
    largest = max(health, key=lambda layer: layer.step)
    moved = f"the first step moves the weights of {largest.layer} most, by {largest.step:.1%} of their length"
    high = largest.step > 1 - momentum
    much = "\nhigh rates: they may end in a loss that is no number: lower them (optim.schedule)" * high
    seen = f"{health[-2].layer} differs by {health[-2].signal:.1%} of its mean; " if len(health) > 1 else ""
    return f"images reach the classifier: {seen}{moved}{much}"


@torch.no_grad()
def _activations(model, network, x):
    """Layer with weights -> of its activation in each tower, (3,): mean deviation between images, mean
    magnitude, share of dead units. It is what the next nonlinearity gives, or itself if there is none."""
    last = {}  # layer with weights -> the layer after which its activation is final
    for row in trace(network):
        if row.parameters:
            layer = row.name
            last[layer] = layer
        elif isinstance(row.layer, ACTIVATIONS) and last[layer] == layer:
            last[layer] = row.name
    seen = {layer: [] for layer in last}

    def look(layer, module, reads, gives):
        h = gives.float()  # (B, ...)
        figures = h.std(0).mean(), h.abs().mean(), (h == 0).all(0).float().mean()
        seen[layer].append(torch.stack(figures))

    hooks = [
        tower.get_submodule(name).register_forward_hook(partial(look, layer))
        for tower in model.towers.values()
        for layer, name in last.items()
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


def _length(tensors):
    return sum(tensor.square().sum().item() for tensor in tensors) ** 0.5
