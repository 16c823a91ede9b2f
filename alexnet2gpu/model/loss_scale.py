"""Loss scaling, for float16: its smallest number is 6e-8, and many gradients of activations are smaller.

So the loss is multiplied by a scale before the backward pass, and gradients are divided by it (Micikevicius
et al. 2018, "Mixed precision training", section 3.2). A step in which a gradient overflows is left out, and
the scale halved; after 2,000 steps without, it is doubled. These are the numbers of torch.amp.GradScaler, in
which a CPU waits for its GPU in every step, and knows of one rank's gradients only. Here none waits, and all
ranks leave out the same steps.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from alexnet2gpu.model.optim import SGD2012, local

START, GROWTH, BACKOFF, PATIENCE = 2.0**16, 2.0, 0.5, 2000


class ScaledSGD2012(SGD2012):
    """SGD2012 whose gradients come of a scaled loss. `agree` takes a tensor, in place, to the largest that
    any rank has."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        momentum: float,
        weight_decay: float,
        agree: Callable[[Tensor], object],
    ):
        super().__init__(named_parameters, momentum, weight_decay)
        self.agree, device = agree, self.halted.device
        self.scale = torch.full((), START, device=device)
        self.steps = torch.zeros((), dtype=torch.int32, device=device)  # without overflow, since it changed
        self.found = torch.zeros(2, device=device)  # 1: not finite are these gradients, was a loss so far

    def backward(self, loss: Tensor) -> None:
        """As SGD2012.backward, of the scaled loss."""
        (loss * self.scale).backward()

    @torch.no_grad()
    def halt_unless_finite(self, loss: Tensor) -> None:
        """As SGD2012.halt_unless_finite; for this step alone if gradients, divided by the scale here, are not
        finite, though the loss is."""
        overflow, lost = self.found
        overflow.zero_()
        gradients = [local(w.grad) for w in self._weights() if w.grad is not None]
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow, self.scale.reciprocal())
        lost.logical_or_(loss.detach().isfinite().logical_not_())
        self.agree(self.found)
        self.halted.copy_(self.found.amax())

    @torch.no_grad()
    def step(self, closure=None):
        """As SGD2012.step; then the scale of the next one."""
        result = super().step(closure)
        torch._amp_update_scale_(self.scale, self.steps, self.halted, GROWTH, BACKOFF, PATIENCE)
        return result

    @property
    def loss_scale(self) -> tuple[float, int]:
        """The scale, and the steps since it changed, for a checkpoint. Waits for a GPU."""
        return self.scale.item(), self.steps.item()

    @loss_scale.setter
    def loss_scale(self, state: tuple[float, int]) -> None:
        self.scale.fill_(state[0])
        self.steps.fill_(state[1])
