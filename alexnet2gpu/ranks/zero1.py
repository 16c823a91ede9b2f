"""Momentum shared out over replicas: of each parameter one of them has the velocity, updates the weight, and
sends it to the others.

It is called ZeRO, stage 1 (Rajbhandari et al. 2020), and torch has it as ZeroRedundancyOptimizer. In 2014 the
successor of the original did it already (cuda-convnet2, weights.cu): every replica summed up a slice of each
gradient, moved that slice of the weights, and broadcast it, in as many bytes as an all-reduce takes. With
torch's DDP, whose all-reduce comes first, it is half as many again.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer

from alexnet2gpu.model.optim import SGD2012, group_of


class Zero1(ZeroRedundancyOptimizer):
    """SGD2012 over the replicas of a group. `state` has the velocities of this replica's part."""

    loss_scale, gathers = None, True

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        momentum: float,
        weight_decay: float,
        group: dist.ProcessGroup,
    ):
        groups = [group_of(*named, weight_decay) for named in named_parameters]
        super().__init__(groups, SGD2012, group, momentum=momentum, weight_decay=weight_decay)
        self.state = self.optim.state
        self.backward, self.halt_unless_finite = self.optim.backward, self.optim.halt_unless_finite

    @torch.no_grad()
    def velocity_of(self, parameter: nn.Parameter) -> Tensor:
        """Of any parameter. All replicas call it."""
        own = parameter in self.state
        velocity = self.state[parameter]["velocity"] if own else torch.empty_like(parameter)
        dist.broadcast(velocity, group=self.process_group, group_src=self._param_to_rank[parameter])
        return velocity
