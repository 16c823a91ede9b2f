"""The network: towers side by side, stage after stage. Knows nothing of ranks. Start reading here.

Shapes, throughout the project: B images in a batch, C channels (maps), H and W their height and
width, F features. A tower's own channels are a *half* of all C, also where there are more than two
towers.

    x               (B, 3, 224, 224)        the image goes to every tower
    stage 1         (B, 48, 55, 55)         conv1, conv2 in each tower, from its own half
    join            (B, 2*128, 13, 13)      every tower gets the channels of all
    stage 2         (B, 128, 6, 6)          conv3, conv4, conv5
    join, fc6, join, fc7, join, fc8         fully connected, joined again after each
    join            (B, 1000)               logits

What a *join* does between two stages is passed in, one callable per stage. With all towers on one
device there is nothing to do but to concatenate. With a tower on each rank, ranks.py passes the
exchange (exchange.py): that is the whole difference between the modes. Parameters have the same
names everywhere: `towers.0.conv1.weight`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from alexnet2gpu import layers
from alexnet2gpu.network import Network, trace
from alexnet2gpu.seeds import seed_of

Join = Callable[[Tensor], Tensor]  # (B, C/n, ...), this rank's halves -> (B, C, ...), everybody's


class Tower(nn.Module):
    """One column of the network: all stages' layers by name, drawn from (seed, index, layer)."""

    def __init__(self, network: Network, index: int, seed: int):
        super().__init__()
        self.index = index
        self.stages = [list(stage) for stage in network.stages]
        for row in trace(network):
            module = layers.build(row.layer, row.reads, row.gives)
            if row.parameters:
                seed_of_layer = seed_of(seed, "weights", index, row.name)
                layers.draw(module, row.layer, torch.Generator().manual_seed(seed_of_layer))
            self.add_module(row.name, module)

    def forward(self, stage: int, x: Tensor) -> Tensor:
        """Run one stage: (B, C, ...) channels of all towers -> (B, C'/n, ...) of this one."""
        for name in self.stages[stage]:
            x = self.get_submodule(name)(x)
        return x


class AlexNet(nn.Module):
    """Some of the towers of a network: all of them on one device, or a rank's own.

    Args:
        network: the `model` section of a config.
        seed: of the weights.
        towers: indices of the towers to build, in order; all of them if not given.
        joins: one callable per stage, see above; by default each passes on what it gets.

    Images (B, C, H, W) -> logits (B, classes), the same in every mode.
    """

    def __init__(
        self,
        network: Network,
        seed: int = 0,
        towers: Sequence[int] | None = None,
        joins: Sequence[Join] | None = None,
    ):
        super().__init__()
        held = range(network.towers) if towers is None else towers
        self.towers = nn.ModuleDict({str(index): Tower(network, index, seed) for index in held})
        self.joins = list(joins) if joins is not None else [_all_here] * len(network.stages)

    def forward(self, x: Tensor) -> Tensor:
        for stage, join in enumerate(self.joins):
            halves = [tower(stage, x) for tower in self.towers.values()]
            x = join(torch.cat(halves, dim=1) if len(halves) > 1 else halves[0])
        return x

    def seed_dropout(self, seed: int, replica: int, step: int) -> None:
        """Give each tower a generator of dropout masks, set by (seed, tower, replica, step)."""
        for tower in self.towers.values():
            device = next(tower.parameters()).device
            generator = torch.Generator(device)
            generator.manual_seed(seed_of(seed, "dropout", tower.index, replica, step))
            for layer in tower.modules():
                if isinstance(layer, layers.Dropout):
                    layer.generator = generator


def _all_here(x):
    return x
