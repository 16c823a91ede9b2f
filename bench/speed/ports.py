"""Ports, which one could train AlexNet with instead: other people's ways to write the same network.

    Port        one column whose convolutions have groups, as Caffe had it and nearly every port since:
                nn.Conv2d(groups=2), nn.LocalResponseNorm, nn.MaxPool2d, channels first
    Columns     two columns of such layers on one device, joined by torch.cat
    torchvision torchvision.models.alexnet: another network, smaller, without normalisation

Port and Columns are made of any config, towers not mixed by normalisation. With the weights of our model,
Port computes the same function, but for dropout, which is torch's.
"""

import torch
from torch import nn
from torch.nn import functional as F

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.config.network import trace


class MapNorm(nn.Module):
    """Response normalisation within a map, which torch has not."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        layer = self.layer  # avg_pool2d divides by size^2, as alpha is
        means = F.avg_pool2d(x * x, layer.size, stride=1, padding=layer.size // 2)
        return x / (layer.k + layer.alpha * means) ** layer.beta


class Apart(nn.Module):
    """A normalisation that does not look from one group of channels into the next: a view."""

    def __init__(self, norm, groups):
        super().__init__()
        self.norm, self.groups = norm, groups

    def forward(self, x):
        count, channels, *sides = x.shape
        groups = x.reshape(count * self.groups, channels // self.groups, *sides)
        return self.norm(groups).view_as(x)


def modules_of(row, reads, gives, groups):
    """The usual modules for a layer with so many channels and groups."""
    layer = row.layer
    match layer:
        case kinds.Conv():
            conv = nn.Conv2d(reads, gives, layer.kernel, layer.stride, layer.pad, groups=groups)
            below, right = layer.overhang(row.reads, row.gives)
            return [nn.ZeroPad2d((0, right, 0, below)), conv] if below or right else [conv]
        case kinds.Linear():
            assert groups == 1, "no port has groups of features"
            return [nn.Linear(reads, gives)]
        case kinds.Lrn():
            norm = nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
            return [Apart(norm, groups) if groups > 1 else norm]
        case kinds.MapNorm():
            return [MapNorm(layer)]
        case kinds.MaxPool():
            return [nn.MaxPool2d(layer.kernel, layer.stride, layer.pad, ceil_mode=layer.ceil)]
        case kinds.Dropout():
            return [nn.Dropout(layer.p)]
        case kinds.Relu():
            return [nn.ReLU(inplace=True)]
        case kinds.Flatten():
            return [nn.Flatten()]
    raise AssertionError(f"no port has {layer}")


class Port(nn.Sequential):
    """(B, 3, 224, 224) -> logits. `named`: its layers by their names in the config."""

    def __init__(self, network):
        towers, layers, named = network.towers, [], {}
        firsts = {next(iter(stage)) for stage in network.stages}
        for row in trace(network):
            groups = 1 if row.name in firsts else towers  # the first of a stage reads all towers
            layers += modules_of(row, row.reads[0] * groups, row.gives[0] * towers, groups)
            named[row.name] = layers[-1]
        super().__init__(*layers)
        self.named = named

    @torch.no_grad()
    def take(self, model):
        """The weights of our model with all its towers: one under the other."""
        for name, layer in self.named.items():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                towers = [tower.get_submodule(name) for tower in model.towers.values()]
                layer.weight.copy_(torch.cat([tower.weight for tower in towers]))
                layer.bias.copy_(torch.cat([tower.bias for tower in towers]))
        return self


class Columns(nn.Module):
    """(B, 3, 224, 224) -> logits, of columns, in stages."""

    def __init__(self, network):
        super().__init__()
        self.stages = nn.ModuleList()
        for stage in range(len(network.stages)):
            rows = [row for row in trace(network) if row.stage == stage]
            columns = nn.ModuleList()
            for _ in range(network.towers):
                modules = [modules_of(row, row.reads[0], row.gives[0], 1) for row in rows]
                columns.append(nn.Sequential(*sum(modules, [])))
            self.stages.append(columns)

    def forward(self, x):
        for columns in self.stages:
            x = torch.cat([column(x) for column in columns], dim=1)
        return x


def torchvisions(network):
    """torchvision.models.alexnet, out of the box, whatever the network."""
    from torchvision.models import alexnet  # for those alone who need it: a contender's memory counts

    return alexnet()


def usual_sgd(model, rate=0.01, fused=None):
    """As ports have it: default SGD unless `fused`, biases at twice the rate and without decay."""
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    groups = [
        {"params": weights, "weight_decay": 5e-4},
        {"params": biases, "weight_decay": 0.0, "lr": 2 * rate},
    ]
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, fused=fused)


def usual_step(model, optimizer, images, labels, precision, forward_ends=lambda: None):
    """As in every tutorial, but for the loss, which may stay on the device."""
    optimizer.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(images)
        forward_ends()
        loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()
    return loss.detach()
