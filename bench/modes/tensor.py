"""Convolutions by DDP, fully connected layers by torch's tensor parallelism (DTensor), on n ranks.

    convolutions   every rank all of them, for its share of the images (B/n); gradients summed by DDP
    fc6            ColwiseParallel: gathers all images' (B, 9216), gives own columns (B, 4096/n)
    fc7            RowwiseParallel: reads those, gives (B, 4096), a sum over ranks
    fc8            ColwiseParallel: own columns (B, 1000/n), gathered: logits (B, 1000) on every rank

DTensor knows nothing of towers: their weights are joined, fc6 as (4096, 9216), which is the same function.
Where a layer's output is summed, not gathered, the split's layer in the same place gathers its input: as many
bytes. Two things differ from what the rest of the project does, as DTensor has it:

- Products are torch's own choice, since DTensor knows no operator of ours (model/linear.py); ReLU is not in
  place, which cannot be on what DTensor gives out.
- Masks of dropout before fc8 are the same on every rank, so not those of the towers.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.seeds import seed_of
from alexnet2gpu.model.layers import Dropout
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.precision import computing_in, ready
from bench.modes.pipeline import Part, crossing


def times(x: Tensor, factor: int) -> Tensor:
    """x itself; its gradient times a factor."""
    x.register_hook(lambda gradient: gradient * factor)
    return x


class Network(nn.Module):
    """A rank's share of the images (B/n, C, H, W) -> logits (B, classes) of all images."""

    def __init__(self, config: Config, ranks, mesh: DeviceMesh | None):
        super().__init__()
        self.rank, self.world = ranks.grid.rank, ranks.grid.world
        self.precision, (cut, _) = config.train.precision, crossing(config.model)
        self.convolutions = ready(Part(config, range(cut)), config.train, ranks.device)
        self.fully = ready(_joined(config, cut), config.train, ranks.device)
        linear = [name for name, layer in self.fully.named_children() if isinstance(layer, nn.Linear)]
        mesh = mesh or DeviceMesh.from_group(ranks.replica_group, ranks.device.type)
        parallelize_module(self.fully, mesh, _plan(linear), src_data_rank=None)
        self.replicated = ranks.replicate(self.convolutions)
        self._give_generators(ranks.device)

    def _give_generators(self, device):
        """Of dropout masks: of this rank's own columns, and of what all ranks have."""
        self.own, self.common, columns = torch.Generator(device), torch.Generator(device), False
        for layer in self.fully:
            if isinstance(layer, nn.Linear):
                columns = not columns
            if isinstance(layer, Dropout):
                layer.generator = self.own if columns else self.common

    def seed_dropout(self, seed: int, replica: int, step: int) -> None:
        """As AlexNet's."""
        self.convolutions.seed_dropout(seed, self.rank, step)
        self.own.manual_seed(seed_of(seed, "dropout", self.rank, replica, step))
        self.common.manual_seed(seed_of(seed, "dropout", "all", replica, step))

    def forward(self, images):
        x = self.replicated(images)  # (B/n, F)
        x = times(x, self.world)  # the loss is a mean over all images: DDP is to sum, and takes the mean
        with computing_in(self.precision, x.device):
            return self.fully(x)


def _joined(config, cut):
    """The fully connected stages, towers joined to one."""
    towers, joined = AlexNet(config.model, config.train.seed).towers.values(), OrderedDict()
    for stage in config.model.stages[cut:]:
        for number, name in enumerate(stage):
            own = [tower.get_submodule(name) for tower in towers]
            joined[name], *_ = own
            if isinstance(own[0], nn.Linear):
                assert number == 0, "a layer that reads the tower's own features alone"
                joined[name] = _tall(own)
            elif isinstance(own[0], nn.ReLU):
                joined[name] = nn.ReLU()
    return nn.Sequential(joined)


def _tall(linear):
    """Of linear layers that read the same, one that gives what they give, in their order."""
    weight, bias = (torch.cat([getattr(each, kind) for each in linear]) for kind in ("weight", "bias"))
    tall = nn.Linear(weight.shape[1], len(weight), device="meta")
    tall.weight, tall.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return tall


def _plan(linear):
    """How the layers of these names, in their order, are shared out."""
    plan = {name: RowwiseParallel() if n % 2 else ColwiseParallel() for n, name in enumerate(linear)}
    if len(linear) % 2:
        plan[linear[-1]] = ColwiseParallel(output_layouts=Replicate())
    last = {"output_layouts": Replicate()} if len(linear) == 1 else {}
    plan[linear[0]] = ColwiseParallel(input_layouts=Shard(0), **last)
    return plan


class TensorParallel:
    """This rank's part of a step: `backward` makes its gradients from its share of the images."""

    buffers = ()

    def __init__(self, config: Config, batch: tuple[Tensor, Tensor], ranks, mesh: DeviceMesh | None):
        rank, world = ranks.grid.rank, ranks.grid.world
        if config.train.batch % world:
            raise ValueError(f"a batch of {config.train.batch} does not divide by {world} ranks")
        images, labels = batch
        self.batch = [images.chunk(world)[rank].clone(), labels]
        self.model = Network(config, ranks, mesh)
        self.replicated = self.model.replicated

    def backward(self) -> Tensor:
        """Gradients of the mean loss, (), which it returns."""
        images, labels = self.batch
        logits = self.model(images)
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
        loss.backward()
        return loss.detach()
