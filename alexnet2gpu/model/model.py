"""The network: towers side by side, stage after stage. Knows nothing of ranks. Start reading here.

Shapes, throughout the project: B images in a batch, C channels (maps), H and W their height and width, F
features; in memory, channels are last. A tower's own channels are a *half* of all C, also where there are
more than two towers.

    stage                      a tower reads          a tower gives
    1  conv1 conv2             (B, 3, 224, 224)       (B, 128, 13, 13)
    2  conv3 conv4 conv5       (B, 256, 13, 13)       (B, 4608), 128 maps of 6 x 6 in a row
    3  fc6                     (B, 9216)              (B, 2048)
    4  fc7                     (B, 4096)              (B, 2048)
    5  fc8                     (B, 4096)              (B, 500), joined: logits (B, 1000)

What a *join* does between two stages is passed in, one callable per stage. With all towers on one device
there is nothing to do but to concatenate. With a tower on each rank, ranks/assemble.py passes the exchange
(ranks/exchange.py): that is the whole difference between one device and the split. A rank may also hold other
towers in one stage than in the next (ranks/modes.py, the hybrid). Parameters have the same names everywhere:
`towers.0.conv1.weight`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alexnet2gpu.config.keys import Memory
from alexnet2gpu.config.network import Network, Row, trace
from alexnet2gpu.config.seeds import seed_of
from alexnet2gpu.model import layers

Join = Callable[[Tensor], Tensor]  # (B, C/n, ...), this rank's half -> (B, C, ...), everybody's
Wrap = Callable[[int, nn.Module], nn.Module]  # a stage (from 0) and its first layer -> a module
# with the same parameters in the layer's place


def all_here(x: Tensor) -> Tensor:
    """The join where there is nothing to do: all towers are on this rank, or the next layer exchanges."""
    return x


def one_by_one(towers: Sequence["Tower"], stage: int, x: Tensor) -> list[Tensor]:
    """A stage of some towers, (B, C, ...) -> (B, C'/n, ...) each: one after another. (model/graph.py has
    another way, for a GPU.)"""
    return [tower(stage, x) for tower in towers]


class Tower(nn.Module):
    """One column of the network, or some stages of it: `rows` by name, drawn from (seed, index, layer)."""

    def __init__(self, rows: Sequence[Row], index: int, seed: int, memory: Memory, wrap: Wrap | None):
        super().__init__()
        self.index, self.recompute = index, memory.recompute
        self.generator = None  # of dropout masks; None is torch's global one
        self.stages, before = {}, None  # number -> names of layers
        for row in rows:
            if hasattr(self, row.name):
                taken = "torch's modules have something of that name: give the layer another"
                raise ValueError(f"model.stages.{row.stage}.{row.name}: {taken}")
            first = row.stage not in self.stages
            layer = layers.build_layer(row, None if first else before, memory)
            if row.parameters:
                layers.draw_weights(layer, row.layer, seed_of(seed, "weights", index, row.name))
            self.add_module(row.name, wrap(row.stage, layer) if first and wrap else layer)
            self.stages.setdefault(row.stage, []).append(row.name)
            before = row.layer

    def own_generator(self) -> torch.Generator:
        """The generator of dropout masks on the tower's device, the same one from the first time on."""
        device = next(self.parameters()).device
        if self.generator is None or self.generator.device != device:
            self.generator = torch.Generator(device)
            for layer in self.modules():
                if isinstance(layer, layers.Dropout):
                    layer.generator = self.generator
        return self.generator

    def forward(self, stage: int, x: Tensor) -> Tensor:
        """Run one stage: (B, C, ...) channels of all towers -> (B, C'/n, ...) of this one."""
        if stage + 1 not in self.recompute or not torch.is_grad_enabled():
            return self._run(stage, x)
        how = {"preserve_rng_state": not self.generator, "context_fn": layers.Masks(self.generator).contexts}
        return checkpoint(self._run, stage, x, use_reentrant=False, **how)

    def _run(self, stage, x):
        for name in self.stages[stage]:
            x = self.get_submodule(name)(x)
        return x


class AlexNet(nn.Module):
    """Some of the towers of a network: all of them on one device, or a rank's own.

    Args:
        network: the `model` section of a config.
        seed: of the weights.
        placement: of each stage, the indices of the towers to build, in order; all of them if not given.
        memory: what to keep for backward.
        joins: one callable per stage, see above; by default each passes on what it gets.
        wrap: what becomes of each stage's first layer; by default it stays as it is.

    Images (B, C, H, W) -> logits (B, classes), the same in every mode; or through some `stages` only, from
    what the first of them reads to what the last gives. Raises: ValueError for images of other sizes.
    """

    def __init__(
        self,
        network: Network,
        seed: int = 0,
        placement: Sequence[Sequence[int]] | None = None,
        memory: Memory = Memory(),
        joins: Sequence[Join] | None = None,
        wrap: Wrap | None = None,
    ):
        super().__init__()
        self.placement = placement or [range(network.towers)] * len(network.stages)
        self.towers, rows = nn.ModuleDict(), trace(network)
        for index in sorted(set().union(*self.placement)):
            own = [row for row in rows if index in self.placement[row.stage]]
            self.towers[str(index)] = Tower(own, index, seed, memory, wrap)
        self.joins = joins or [all_here] * len(network.stages)
        self.run, self.reads = one_by_one, tuple(network.input)

    def forward(self, x: Tensor, stages: slice = slice(None)) -> Tensor:
        numbers = range(len(self.joins))[stages]
        if 0 in numbers and (x.dim() != 4 or x.shape[1:] != self.reads):
            reads = ", ".join(map(str, self.reads))
            raise ValueError(f"images are {tuple(x.shape)}, and the network reads (B, {reads})")
        for stage in numbers:
            x = self.joins[stage](self._side_by_side(stage, x))  # (B, C, ...), channels of all towers
        return x  # (B, classes), after the last

    def _side_by_side(self, stage, x):
        """(B, C, ...) -> (B, C'/n, ...). A function of its own, so that no half outlives the join."""
        halves = self.run([self.towers[str(index)] for index in self.placement[stage]], stage, x)
        if len(halves) == 1:
            return halves[0]
        if halves[0].dim() == 2:
            return torch.cat(halves, dim=1)
        # with channels last in memory, which torch forgets where a half has a single map
        return torch.cat([half.movedim(1, -1) for half in halves], dim=-1).movedim(-1, 1)

    def seed_dropout(self, seed: int, replica: int, step: int) -> None:
        """Set each tower's generator of dropout masks by (seed, tower, replica, step)."""
        for tower in self.towers.values():
            key = seed, "dropout", tower.index, replica, step
            tower.own_generator().manual_seed(seed_of(*key))
