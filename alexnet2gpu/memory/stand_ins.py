"""What stands for other ranks where a step is played without any: nothing is sent, and what would be received
is made."""

import contextlib
import random
import sys
from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from alexnet2gpu.model.device import on_gpu
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.ranks.link import Link, connected
from alexnet2gpu.ranks.modes import Grid


class PlayedRanks:
    """As ranks.groups.Ranks, for a rank alone: what ranks.assemble asks of it. `fullest`: where momentum is
    shared out, with the largest part, not this replica's."""

    def __init__(self, grid: Grid, fullest: bool = False):
        self.grid, self.device, self.buckets = grid, torch.device("cpu"), Buckets()
        self.fullest = fullest

    def connect(self, network, wire=None):
        """As Ranks.connect."""
        return connected(self.grid.gathered(network), wire, partial(PlayedLink, self.grid))

    def replicate(self, model, in_buckets=True, shared=()):
        """As Ranks.replicate."""
        if self.grid.replicas > 1:
            self.buckets.hold(model, in_buckets)
            model.no_sync = self.buckets.no_sync
        return model

    def share_momentum(self, named_parameters, *rule):
        """As Ranks.share_momentum, of a part. torch gives each weight to who has least."""
        sizes, parts = [0] * self.grid.replicas, [[] for _ in range(self.grid.replicas)]
        for named in named_parameters:
            replica = sizes.index(min(sizes))
            sizes[replica] += named[1].numel()
            parts[replica].append(named)
        return SGD2012(parts[sizes.index(max(sizes)) if self.fullest else self.grid.replica], *rule)

    def largest(self, values):
        """As Ranks.largest."""
        return values


class PlayedLink(Link):
    """A link to ranks that are not there."""

    def __init__(self, grid, axis, wire=None):
        self.rank, self.size, self.axis, self.wire = grid.rank % grid.span, grid.span, axis, wire
        self.sent = {"forward": 0, "backward": 0}

    def _by_messages(self, tensor):
        return not on_gpu(tensor)

    def _all_gather(self, together, own):
        return _Done()

    _reduce_scatter = _all_gather

    def _transfers(self, outgoing, incoming):
        return []


class _Done:
    def wait(self):
        pass


class Buckets:
    """DistributedDataParallel's: each gradient is copied into one as it comes, and lies there from then on,
    or in both. They are filled from the last parameter on, the first up to 1 MiB, others up to `bucket_mb`.
    """

    def __init__(self, bucket_mb: float = 25):
        self.limit, self.kind, self.tensors = bucket_mb * 2**20, "buckets", []
        self.filling = True  # as gradients come

    def hold(self, model: nn.Module, in_buckets: bool = True) -> None:
        """Have the gradients of a model come into buckets."""
        self.kind = "gradients" if in_buckets else "buckets"
        by_type = {}
        for parameter in reversed([p for p in model.parameters() if p.requires_grad]):
            by_type.setdefault(parameter.dtype, []).append(parameter)
        for parameters in by_type.values():
            limit, group, size = 2**20, [], 0
            for parameter in parameters:
                group.append(parameter)
                size += parameter.nbytes
                if size >= limit:
                    self._fill(group, in_buckets)
                    limit, group, size = self.limit, [], 0
            if group:
                self._fill(group, in_buckets)

    @contextlib.contextmanager
    def no_sync(self):
        """As DistributedDataParallel.no_sync: a context in which gradients add up beside the buckets."""
        self.filling = False
        yield
        self.filling = True

    def _fill(self, group, in_buckets):
        bucket = torch.empty(sum(p.numel() for p in group), dtype=group[0].dtype)
        self.tensors.append(bucket)
        first = 0
        for parameter in group:
            view = bucket.as_strided(parameter.shape, parameter.stride(), first)
            first += parameter.numel()

            def copy(parameter, view=view):
                if self.filling:
                    view.copy_(parameter.grad)
                    parameter.grad = view if in_buckets else parameter.grad

            parameter.register_post_accumulate_grad_hook(copy)


@contextlib.contextmanager
def fake_mesh(ranks: int, rank: int = 0) -> Iterator:
    """A mesh of ranks of which only this one is there: torch's process group `fake`. Raises:
    ValueError if the process has a group."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise ValueError("fsdp cannot be estimated in a process that has a process group: do it before")
    drawn, hook = random.getstate(), sys.excepthook  # torch names groups, and the rank of errors
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield init_device_mesh("cpu", (ranks,))
    finally:
        dist.destroy_process_group()
        random.setstate(drawn)
        sys.excepthook = hook
