"""Links, over which halves travel between ranks: each tells all others, or tells each something else.

Both start at once and give a function that waits, so that a rank can compute meanwhile:

    start_gather     own half (B, C/n, ...)              -> every rank's half
    start_scatter    for every rank r a (B, C/n, ...)    -> what other ranks have for this one

On the CPU as messages between two ranks, three times as fast there as gloo's collectives; on GPUs, where
gloo has no messages, as collectives, which NCCL carries out on a stream of its own: to wait for them is then
for the stream of what is computed, not for the CPU.

A half is of the channels, (B, C/n, ...) of (B, C, ...), or for the hybrid of the images, (B/n, C, ...).
Tensors travel with their channels last, (B, ..., C/n), as they lie in memory; in the type `wire` if there is
one, but a rank's own half stays exact.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

# As torch has called them from 2.13 or 2.14 on; before, it knew them under these names only.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Link:
    """The n ranks that hold the towers of one replica, in order of towers. `axis` is of what is halved: 1 of
    channels, 0 of images. `sent` counts the bytes that this rank gave to the others, by direction: payload,
    whatever the transport makes of it."""

    def __init__(self, group: dist.ProcessGroup, axis: int = 1, wire: torch.dtype | None = None):
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)
        self.axis, self.wire, self.sent = axis, wire, {"forward": 0, "backward": 0}

    def gather(self, half: Tensor, way: str = "forward") -> Tensor:
        """(B, C/n, ...) of each rank -> (B, C, ...) on every rank."""
        halves = [half.movedim(1, -1) for half in self.start_gather(half, way)()]  # (B, ..., C/n)
        along = -1 if self.axis == 1 else 0  # channels are last now
        return torch.cat(halves, dim=along).movedim(-1, 1)  # (B, C, ...), in the widest type

    def reduce_scatter(self, gradient: Tensor) -> Tensor:
        """(B, C, ...), different on each rank -> (B, C/n, ...), own slice summed over ranks."""
        slices = gradient.chunk(self.size, dim=self.axis)  # (B, C/n, ...) each
        return add(slices[self.rank], self.start_scatter(slices)())

    def start_gather(self, half: Tensor, way: str = "forward") -> Callable[[], list[Tensor]]:
        """(B, C/n, ...) of this rank. When waited for: of each, in order, the own as it was."""
        packed = self._pack(half)  # (B, ..., C/n)
        self.sent[way] += (self.size - 1) * packed.nbytes
        if self._by_messages(half):
            return self._swap([packed] * self.size, half)
        together = packed.new_empty(self.size * len(packed), *packed.shape[1:])  # (n B, ..., C/n)
        work = self._all_gather(together, packed)

        def wait():
            work.wait()
            halves = [part.movedim(-1, 1) for part in together.chunk(self.size)]  # (B, C/n, ...)
            halves[self.rank] = half
            return halves

        return wait

    def start_scatter(self, slices: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """slices[r], (B, C/n, ...), for rank r, the own not read. When waited for: what is to be added to
        the own one, to have the sum over ranks."""
        packed = [None if r == self.rank else self._pack(s) for r, s in enumerate(slices)]  # (B, ..., C/n)
        other = packed[self.rank - 1]
        self.sent["backward"] += (self.size - 1) * other.nbytes
        if self._by_messages(other):
            return self._swap(packed, None)
        packed[self.rank] = torch.zeros_like(other)
        total = torch.empty_like(other)
        stacked = torch.cat(packed)  # (n B, ..., C/n)
        work = self._reduce_scatter(total, stacked)

        def wait():
            work.wait()
            return [total.movedim(-1, 1)]

        return wait

    def _pack(self, tensor):
        """(B, C/n, ...) -> (B, ..., C/n) as it travels."""
        return tensor.movedim(1, -1).to(self.wire or tensor.dtype).contiguous()

    def _swap(self, packed, own):
        """Start to send packed[r] to rank r. When waited for: what came, and in its order `own`, if given."""
        others = [r for r in range(self.size) if r != self.rank]
        incoming = {r: torch.empty_like(packed[r]) for r in others}
        work = self._transfers(packed, incoming)

        def wait():
            for transfer in work:
                transfer.wait()
            received = [tensor.movedim(-1, 1) for tensor in incoming.values()]  # (B, C/n, ...)
            if own is not None:
                received.insert(self.rank, own)
            return received

        return wait

    def _by_messages(self, tensor):
        return tensor.device.type == "cpu"

    def _all_gather(self, together, own):
        return all_gather(together, own, group=self.group, async_op=True)

    def _reduce_scatter(self, own, stacked):
        return reduce_scatter(own, stacked, group=self.group, async_op=True)

    def _transfers(self, outgoing, incoming):
        """Start to receive `incoming`, by rank, and to send those ranks what is `outgoing` to them."""
        coming = [dist.irecv(tensor, group=self.group, group_src=r) for r, tensor in incoming.items()]
        return coming + [dist.isend(outgoing[r], group=self.group, group_dst=r) for r in incoming]


def connected(axes: Sequence[int | None], wire: torch.dtype | None, make: Callable[..., Link]) -> list:
    """For the end of each stage the link that `make(axis, wire)` gives, None where there is no axis. All but
    the last, of the logits, send in the type `wire`."""
    wires = [wire] * (len(axes) - 1) + [None]
    return [None if axis is None else make(axis, wire) for axis, wire in zip(axes, wires)]


def add(own: Tensor, received: list[Tensor]) -> Tensor:
    """(B, C/n, ...) of this rank, and what `start_scatter` gives -> their sum, as `own` is."""
    first, *rest = received
    total = own + first
    for tensor in rest:
        total += tensor
    return total
