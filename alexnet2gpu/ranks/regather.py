"""Keep a rank's own half of what it exchanged, and gather all halves again in backward.

The layer that reads gathered activations keeps them for the gradient of its weights: of n halves, this rank
could have had all but its own from the others once more. So this trades traffic, half as much again, for
memory. It is an option of a config, `memory.regather`, off by default.
"""

import weakref
from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from alexnet2gpu.model.model import AlexNet, Join, all_here
from alexnet2gpu.ranks.exchange import exchange
from alexnet2gpu.ranks.link import Link


class Regathering(AlexNet):
    """An AlexNet that exchanges over `links`, one for each boundary of stages or None, and regathers."""

    def __init__(self, *args, links: Sequence[Link | None], logits: Join, **how):
        self.regather = Regather()
        between = [partial(self.regather.exchange, link=link) if link else all_here for link in links]
        super().__init__(*args, joins=[*between, logits], **how)

    def forward(self, *args):
        with self.regather:
            return super().forward(*args)


class Regather(saved_tensors_hooks):
    """A context around the forward pass. Where autograd would keep what this object's `exchange` has
    gathered, it keeps the rank's own half. Every rank unpacks in the same order, that of backward, so the
    gathers meet."""

    def __init__(self):
        super().__init__(self._pack, self._unpack)
        self.latest = None

    def __exit__(self, *error):
        self.latest = None
        super().__exit__(*error)

    def exchange(self, half: Tensor, link: Link) -> Tensor:
        """ranks.exchange.exchange, remembered until the next one: (B, C/n, ...) -> (B, C, ...)."""
        gathered = exchange(half, link)
        self.latest = weakref.ref(gathered), half.detach(), link
        return gathered

    def _pack(self, tensor):
        if self.latest:
            gathered, half, link = self.latest
            x = gathered()
            if x is not None and _place(tensor) == _place(x):
                return half, link
        return tensor

    def _unpack(self, kept):
        if isinstance(kept, Tensor):
            return kept
        half, link = kept
        return link.gather(half, "backward")


def _place(tensor):
    """Where a tensor lies; those without data too lie somewhere."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape
