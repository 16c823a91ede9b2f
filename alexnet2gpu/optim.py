"""The update rule of 2012 and its schedule of learning rates.

    v <- momentum * v - weight_decay * rate * w - rate * g    (g: the mean gradient)
    w <- w + v

(Krizhevsky, Sutskever and Hinton 2012, section 5.) The rate is inside the velocity.
torch.optim.SGD keeps it outside (w <- w - rate * v), which is the same while the rate is constant,
but after a drop by ten the steps shrink by ten at once, where here the velocity of the old rate
dies away over some ten steps.

Biases have a rate of their own and no decay. A layer whose rate is 0 is frozen: no gradient, no
decay, no momentum. The second rate and the absence of decay are in the released configuration of
2012, not in the paper.
"""

from collections.abc import Iterable

import torch
from torch import nn

from alexnet2gpu.config import Change


class SGD2012(torch.optim.Optimizer):
    """The rule above, as a torch optimizer.

    Args:
        named_parameters: as from `model.named_parameters()`, called `towers.T.LAYER.weight` or
        `.bias`. Each is a
            group of its own, with keys name, lr, momentum and weight_decay; state is `velocity`,
            there from the start.
        momentum: factor of the old velocity.
        weight_decay: of the weights; that of biases is 0.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        momentum: float,
        weight_decay: float,
    ):
        groups = [
            {
                "params": [parameter],
                "name": name,
                "weight_decay": weight_decay * name.endswith(".weight"),
            }
            for name, parameter in named_parameters
        ]
        super().__init__(groups, {"lr": 0.0, "momentum": momentum})
        for group in self.param_groups:
            (parameter,) = group["params"]
            self.state[parameter]["velocity"] = torch.zeros_like(
                parameter, memory_format=torch.preserve_format
            )

    @torch.no_grad()
    def step(self, closure=None):
        """One update from the gradients that backward left. Returns what `closure` returns, if
        there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (w,) = group["params"]
            rate = group["lr"]
            if w.grad is None or rate == 0:
                continue
            v = self.state[w]["velocity"]
            v.mul_(group["momentum"])
            if group["weight_decay"]:
                v.add_(w, alpha=-group["weight_decay"] * rate)
            v.add_(w.grad, alpha=-rate)
            w.add_(v)
        return loss


def rate_of(
    schedule: Iterable[Change], epoch: int, layer: str = "", kind: str = "weights"
) -> float:
    """The rate in force in `epoch` (from 1) for the `kind`, "weights" or "biases", of a layer; ""
    is any other layer.

    What the schedule says of single layers prevails over what it says of all, also when that
    changes later.
    """
    rates = {"all": 0.0, "own": None}
    for change in schedule:
        if change.epoch > epoch:
            break
        for whose, said in (("all", change), ("own", change.layers.get(layer))):
            new = getattr(said, kind, None)
            rates[whose] = rates[whose] if new is None else new
    return rates["all"] if rates["own"] is None else rates["own"]


def set_rates(optimizer: SGD2012, schedule: Iterable[Change], epoch: int) -> None:
    """Give every parameter the rate that the schedule has for it in `epoch`."""
    for group in optimizer.param_groups:
        layer, kind = group["name"].split(".")[-2:]
        group["lr"] = rate_of(schedule, epoch, layer, "biases" if kind == "bias" else "weights")
