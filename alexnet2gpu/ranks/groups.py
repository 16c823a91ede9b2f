"""A rank's device and process groups, and what it does together with others.

group            ranks                                 what travels in it              backend
all              of all replicas                       objects, agreements, on the CPU gloo
split_group      that hold the towers of one replica   halves of activations           gpus.py
replica_group    that hold the same towers             gradients                       gpus.py
"""

import contextlib
import gc
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

# Before a process group starts: its functions have the group of that moment as their default, and would
# keep it, and its threads, after its end. DDP and optimizers import it on their way.
import torch.distributed.nn.functional  # noqa: F401
from torch import Tensor, nn

from alexnet2gpu.config.network import Network
from alexnet2gpu.ranks.gpus import backend_of, check_seats, choose_device, nccl_may_share, said_of, seat_of
from alexnet2gpu.ranks.link import Link, connected
from alexnet2gpu.ranks.machine import cores, keep_freed_memory
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.store import store
from alexnet2gpu.ranks.summed import Summed
from alexnet2gpu.ranks.zero1 import Zero1

# For one message between ranks, also the first. Whoever dies or hangs is found sooner: watch.py.
TIMEOUT = timedelta(minutes=5)
LEAVE_PATIENCE = 10  # seconds


class Ranks:
    """Started process groups, as a context manager. With one rank all of it works without any."""

    def __init__(self, grid: Grid, threads: int | None = None, keep_memory: bool = True):
        self.grid, self.device = grid, choose_device(grid.local_rank)
        if threads or grid.local_world > 1:  # torchrun has set 1; alone, torch's default is good
            torch.set_num_threads(threads or max(1, cores() // grid.local_world))
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        elif keep_memory:
            keep_freed_memory()
        self.split_group = self.replica_group = None
        self.links, self.asked, self.backends = [], None, []
        self.seats = [seat_of(self.device)]  # of all ranks
        if grid.world == 1:
            return
        self.store = store(TIMEOUT)
        dist.init_process_group(
            "gloo", store=self.store, rank=grid.rank, world_size=grid.world, timeout=TIMEOUT
        )
        self.seats, shapes = map(list, zip(*self.gather((self.seats[0], (grid.span, grid.parts)))))
        check_seats(self.seats)
        if len(set(shapes)) > 1:  # they would start other groups
            flags = "--split-model, --ddp, --hybrid"
            raise ValueError(f"{flags}: not the same on all ranks: start all with the same command")
        everyone = torch.arange(grid.world).view(grid.replicas, grid.span)
        if grid.span > 1:
            self.split_group = self._start(everyone)
        if grid.replicas > 1:
            self.replica_group = self._start(everyone.T)
        self.wait()  # no rank writes anything before all have passed their checks

    def _start(self, groups):
        """Start groups (how many, members) of ranks, as all ranks do. Returns: the one that this is in."""
        own, may_share = None, nccl_may_share()
        for members in groups.tolist():
            backend = backend_of([self.seats[rank] for rank in members], may_share)
            group = dist.new_group(members, TIMEOUT, backend)
            if self.grid.rank in members:
                own = group
                self.backends.append(backend)
        return own

    def said(self) -> str:
        """All ranks' devices and how they talk, in words."""
        return said_of(self.seats, self.backends)

    def device_name(self) -> str:
        """The GPU's name, or cpu."""
        return self.seats[self.grid.rank].name

    def connect(self, network: Network, wire: torch.dtype | None = None) -> list[Link | None]:
        """For the end of each stage, the link over which this rank meets others, or None: link.connected."""
        between = connected(self.grid.gathered(network), wire, partial(Link, self.split_group))
        self.links = [link for link in between if link]
        return between

    def replicate(
        self, model: nn.Module, in_buckets: bool = True, shared: Sequence[nn.Parameter] = ()
    ) -> nn.Module:
        """`model` with gradients averaged over the replicas in every backward pass; those of `shared`
        parameters, which all ranks of a replica hold, are summed over them. Replicas draw or load the same
        weights, so none are sent. If gradients lie in DDP's buckets, there is no second copy of them."""
        if shared:
            return Summed(model, shared, self.split_group)
        if self.replica_group is None:
            return model
        return nn.parallel.DistributedDataParallel(
            model, process_group=self.replica_group, init_sync=False, gradient_as_bucket_view=in_buckets
        )

    def share_momentum(self, *rule) -> Zero1:
        """The optimizer of model/optim.py's arguments, with each velocity on one of the replicas."""
        return Zero1(*rule, self.replica_group)

    def sum_over_replicas(self, values: Tensor) -> Tensor:
        """Any tensor, different in each replica -> its sum, the same everywhere. In place."""
        if self.replica_group is not None:
            dist.all_reduce(values, group=self.replica_group)
        return values

    def largest(self, values: Tensor) -> Tensor:
        """Any tensor, different on each rank -> the largest values of all, the same everywhere. In place."""
        for group in (self.split_group, self.replica_group):  # all ranks, by way of both
            if group is not None:
                dist.all_reduce(values, dist.ReduceOp.MAX, group)
        return values

    def gather(self, value: Any) -> list:
        """Any picklable value of each rank -> the list of all, in order of ranks, on every rank."""
        if self.grid.world == 1:
            return [value]
        values = [None] * self.grid.world
        dist.all_gather_object(values, value)
        return values

    def largest_a_call_ago(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over all ranks, as they gave them one call earlier, 0 at first, so that
        nobody waits for an answer; of one rank alone, at once. All ranks call this equally often and get
        the same."""
        if self.grid.world == 1:
            return list(values)
        now = torch.tensor(values)
        work = dist.all_reduce(now, dist.ReduceOp.MAX, async_op=True)
        earlier, self.asked = self.asked, (now, work)
        if earlier is None:
            return [0] * len(values)
        largest, work = earlier
        work.wait()
        return largest.tolist()

    def wait(self) -> None:
        """Return when all ranks have come here."""
        self.gather(None)

    def _leave_together(self):
        """Return when all ranks have received what they were sent: whoever closes a connection earlier may
        destroy what another has not read yet. It is not waited for long, nor at all for a store that is gone,
        or that does not answer, since torchrun may be stopped."""

        def leave():
            with contextlib.suppress(RuntimeError):
                left = self.store.add("left", 1)
                while left < self.grid.world:
                    time.sleep(0.002)
                    left = self.store.add("left", 0)

        thread = threading.Thread(target=leave, name="leave", daemon=True)
        with contextlib.suppress(RuntimeError):
            thread.start()
            thread.join(LEAVE_PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        """Leave the process group, whose threads end with it if what was joined or replicated in this
        context is gone by now: a thread that is left may abort the process at its exit. After an error the
        others may be waiting for this rank, so it does not wait."""
        if self.grid.world > 1 and error is None:
            if self.asked is not None:
                self.asked[1].wait()
            self._leave_together()
            self.split_group = self.replica_group = self.asked = None
            self.links = []
            gc.collect()  # DDP refers to itself, and to a group
            dist.destroy_process_group()
