"""Gradients of parameters that several ranks hold alike, summed over these ranks: the hybrid's convolutions.

Each rank computes the gradient of the mean loss over all images, as far as it comes by way of its own images.
So the sum over ranks is the true one. DistributedDataParallel takes the mean, since there each rank's loss is
the mean over its own images; here that would be n times too small.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import nn


class Summed(nn.Module):
    """A module whose `shared` parameters have complete gradients after each backward pass: each is sent as
    soon as it is there, while those of layers below are computed. Forward is the module's."""

    def __init__(self, module: nn.Module, shared: Iterable[nn.Parameter], group: dist.ProcessGroup):
        super().__init__()
        self.module, self.group, self.summing, self.under_way = module, group, True, []
        for parameter in shared:
            parameter.register_post_accumulate_grad_hook(self._sum)

    def forward(self, *args):
        return self.module(*args)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """As DistributedDataParallel.no_sync: a context in which gradients add up, and are not sent."""
        self.summing = False
        yield
        self.summing = True

    def _sum(self, parameter):
        if not self.summing:
            return
        if not self.under_way:
            torch.autograd.Variable._execution_engine.queue_callback(self._wait)  # as backward ends
        self.under_way.append(dist.all_reduce(parameter.grad, group=self.group, async_op=True))

    def _wait(self):
        for work in self.under_way:
            work.wait()
        self.under_way.clear()
