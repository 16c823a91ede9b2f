"""Exchanges between ranks: two functions, each with its forward and its backward pass.

n ranks hold the towers of a network, each a half (B, C/n, ...) of the activations.

                     forward                                  backward
    exchange         all-gather (B, C/n, ...) -> (B, C, ...)  reduce-scatter: own slice, summed
    gather_logits    all-gather (B, C/n) -> (B, C)            own slice, no sum

After `exchange` every rank's next stage reads the gathered tensor, so every rank has a gradient for each
half, and the true one is their sum. After `gather_logits` comes the loss, which every rank computes alike:
each gradient is already the true one, and a sum would be n times too large. The wrong pairing trains
without complaint: keeping the slice in `exchange` loses most of the gradient of the layers below, summing
in `gather_logits` scales it by n.

In the hybrid, ranks hold all channels of their own images, (B/n, C, ...), up to the fully connected layers.
The same `exchange` over a link along the images then gathers (B, C, ...), of which each rank's own towers
read all; backward, a rank gets the gradient of its own images, summed over the towers of all ranks.

So on every rank the logits are complete, and `loss.backward()` needs no factor. (In 2012 all of fc8 and the
loss sat on GPU 0: the same arithmetic. Split like the others, memory stays equal.)
"""

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from alexnet2gpu.ranks.link import Link


class _Exchange(Function):
    @staticmethod
    def forward(ctx, half, link):
        ctx.link = link
        return link.gather(half)  # (B, C/n, ...) -> (B, C, ...)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return ctx.link.reduce_scatter(gradient), None  # (B, C, ...) -> (B, C/n, ...), summed


class _GatherLogits(_Exchange):  # forward is the same
    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient.chunk(ctx.link.size, dim=1)[ctx.link.rank], None  # (B, C) -> (B, C/n)


def exchange(half: Tensor, link: Link) -> Tensor:
    """Between two stages: this rank's half (B, C/n, ...), or its images (B/n, C, ...) -> all (B, C, ...)."""
    return _Exchange.apply(half, link)


def gather_logits(half: Tensor, link: Link) -> Tensor:
    """After the last stage: this rank's logits (B, C/n) -> all (B, C), for a loss on each rank."""
    return _GatherLogits.apply(half, link)
