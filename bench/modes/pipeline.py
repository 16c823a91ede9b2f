"""The network as a pipeline of two ranks, by torch.distributed.pipelining.

    rank 0   the stages of convolutions, all towers    has the images
    rank 1   the fully connected ones, all towers      has the labels

Only the last pooling's output crosses, (B, 9216) of alexnet.yaml, and its gradient. The batch goes through in
`microbatches`, since otherwise one rank would wait while the other computes; for a part of the time, which is
1 / microbatches of the work or more, it does so all the same.

    gpipe   all microbatches forward, then all backward
    1f1b    as soon as a microbatch has gone forward, it goes backward: rank 1 holds one at a time, rank 0 two

Both give the gradients of the whole batch: torch divides the sum of the microbatches' by their number. Its
receive buffers, one for each microbatch, stay from step to step.
"""

from math import prod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional as F

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import Network, trace
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.precision import activation_dtype, computing_in, ready

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


def crossing(network: Network) -> tuple[int, int]:
    """The first fully connected stage, from 0, and how many features it reads."""
    linear = [row for row in trace(network) if isinstance(row.layer, kinds.Linear)]
    return linear[0].stage, prod(linear[0].reads)


class Part(AlexNet):
    """Some stages of a network, (B, C, ...) -> (B, C', ...), with all of their towers. The others' weights
    are drawn too, and let go."""

    def __init__(self, config: Config, stages: range):
        super().__init__(config.model, config.train.seed, memory=config.memory)
        self.stages, self.precision = stages, config.train.precision
        for tower in self.towers.values():
            for stage, names in tower.stages.items():
                for name in names if stage not in stages else ():
                    delattr(tower, name)

    def forward(self, x):
        with computing_in(self.precision, x.device):
            for stage in self.stages:
                x = self._side_by_side(stage, x)
        return x


class Pipeline:
    """This rank's part of a step: `backward` makes its gradients from its part of the batch."""

    def __init__(self, name: str, config: Config, batch: tuple[Tensor, Tensor], ranks, microbatches: int):
        rank, world = ranks.grid.rank, ranks.grid.world
        if world != 2:
            raise ValueError(f"a pipeline has 2 ranks, not {world}")
        if config.train.batch % microbatches:
            raise ValueError(f"a batch of {config.train.batch} is not {microbatches} equal microbatches")
        cut, features = crossing(config.model)
        stages = range(len(config.model.stages))
        self.model = ready(Part(config, stages[cut:] if rank else stages[:cut]), config.train, ranks.device)
        self.replicated, self.group, self.rank = self.model, ranks.replica_group, rank
        images, labels = batch
        self.batch = [labels] if rank else [images]
        count = config.train.batch // microbatches
        dtype = activation_dtype(config.train.precision)
        crosses = torch.empty(count, features, dtype=dtype, device="meta", requires_grad=True)
        logits = torch.empty(count, config.model.last.out, dtype=dtype, device="meta", requires_grad=True)
        reads, gives = (crosses, logits) if rank else (images[:count].to("meta"), crosses)
        self.stage = PipelineStage(self.model, rank, 2, ranks.device, reads, gives, group=self.group)
        self.schedule = SCHEDULES[name](self.stage, microbatches, _loss)

    def backward(self) -> Tensor:
        """Gradients of the mean loss, (), which it returns; rank 1 tells it."""
        losses = []
        if self.rank:
            self.schedule.step(target=self.batch[0], losses=losses, return_outputs=False)
            loss = torch.stack(losses).detach().mean()
        else:
            self.schedule.step(self.batch[0], return_outputs=False)
            loss = torch.zeros((), dtype=_wide(self.batch[0]), device=self.batch[0].device)
        dist.broadcast(loss, group_src=1, group=self.group)
        return loss

    @property
    def buffers(self) -> list[Tensor]:
        """Where it receives, from the first step on."""
        infos = [*self.stage.args_recv_info.values(), *self.stage.grad_recv_info.values()]
        return [info.buffer for each in infos for info in each if info.buffer is not None]


def _loss(logits, labels):
    return F.cross_entropy(logits.to(_wide(logits)), labels)


def _wide(tensor):
    """The type of a loss."""
    return torch.promote_types(tensor.dtype, torch.float32)
