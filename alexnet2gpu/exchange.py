"""All communication inside a forward or backward pass: two functions, each with its backward.

                     forward                                  backward
    exchange         all-gather (B, C/n, ...) -> (B, C, ...)  reduce-scatter: own slice, summed
    gather_logits    all-gather (B, C/n) -> (B, C)            own slice, no sum

After `exchange` every rank's next stage reads the gathered tensor, so every rank has a gradient
for each half, and the true one is their sum. After `gather_logits` comes the loss, which every
rank computes alike: each gradient is already the true one, and a sum would be n times too large.
The wrong pairing trains without complaint: keeping the slice in `exchange` loses most of the
gradient of the layers below, summing in `gather_logits` scales it by n.

So on every rank the logits are complete, and `loss.backward()` needs no factor. (In 2012 all of
fc8 and the loss sat on GPU 0: the same arithmetic. Split like the others, memory stays equal.)
"""

import functools

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class Link:
    """The n ranks that hold the towers of one replica, in order of towers.

    `sent` counts the bytes that this rank gave to the others, by direction: payload, whatever the
    transport makes of it.
    """

    def __init__(self, group: dist.ProcessGroup):
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)
        self.sent = {"forward": 0, "backward": 0}

    def gather(self, half: Tensor, way: str = "forward") -> Tensor:
        """(B, C/n, ...) of each rank -> (B, C, ...) on every rank."""
        half = half.movedim(1, -1).contiguous()  # (B, ..., C/n), as it lies in memory
        self.sent[way] += (self.size - 1) * half.nbytes
        if _by_messages(half):
            halves = self._swap([half] * self.size)
        else:
            together = half.new_empty(self.size * half.shape[0], *half.shape[1:])
            dist.all_gather_into_tensor(together, half, group=self.group)
            halves = together.chunk(self.size)
        return torch.cat(halves, dim=-1).movedim(-1, 1)

    def reduce_scatter(self, gradient: Tensor) -> Tensor:
        """(B, C, ...), different on each rank -> (B, C/n, ...), own slice summed over ranks."""
        pieces = gradient.movedim(1, -1).chunk(self.size, dim=-1)
        slices = [piece.contiguous() for piece in pieces]  # (B, ..., C/n)
        self.sent["backward"] += (self.size - 1) * slices[0].nbytes
        if _by_messages(gradient):
            total = functools.reduce(torch.add, self._swap(slices))
        else:
            total = torch.empty_like(slices[0])
            dist.reduce_scatter_tensor(total, torch.cat(slices), group=self.group)
        return total.movedim(-1, 1)

    def _swap(self, outgoing):
        """Send outgoing[r] to rank r; returns what each rank sent here."""
        incoming = [t if r == self.rank else torch.empty_like(t) for r, t in enumerate(outgoing)]
        others = [rank for rank in range(self.size) if rank != self.rank]
        work = [dist.irecv(incoming[rank], group=self.group, group_src=rank) for rank in others]
        work += [dist.isend(outgoing[rank], group=self.group, group_dst=rank) for rank in others]
        for transfer in work:
            transfer.wait()
        return incoming


def _by_messages(tensor):
    """On the CPU messages are faster than gloo's collectives; on GPUs gloo has no messages."""
    return tensor.device.type == "cpu"


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, half, link):
        ctx.link = link
        return link.gather(half)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return ctx.link.reduce_scatter(gradient), None


class _GatherLogits(_Exchange):
    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient.chunk(ctx.link.size, dim=1)[ctx.link.rank], None


def exchange(half: Tensor, link: Link) -> Tensor:
    """Between two stages: this rank's half (B, C/n, ...) -> all channels (B, C, ...)."""
    return _Exchange.apply(half, link)


def gather_logits(half: Tensor, link: Link) -> Tensor:
    """After the last stage: this rank's logits (B, C/n) -> all (B, C), for a loss on each rank."""
    return _GatherLogits.apply(half, link)
