"""The update rule of 2012 and its schedule of learning rates.

    v <- momentum * v - weight_decay * rate * w - rate * g    (g: the mean gradient)
    w <- w + v

(Krizhevsky, Sutskever and Hinton 2012, section 5.) The rate is inside the velocity. torch.optim.SGD keeps it
outside (w <- w - rate * v), which is the same while the rate is constant, but after a drop by ten the steps
shrink by ten at once, where here the velocity of the old rate dies away over some ten steps.

Biases have a rate of their own and no decay. A layer whose rate is 0 is frozen: no gradient, no decay, no
momentum. The second rate and the absence of decay are in the released configuration of 2012, not in the
paper.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from alexnet2gpu.config.keys import Change
from alexnet2gpu.model.update import update


class SGD2012(torch.optim.Optimizer):
    """The rule above, as a torch optimizer; loss_scale.py has that of float16.

    Args:
        named_parameters: as from `model.named_parameters()`, called `towers.T.LAYER.weight` or `.bias`. Each
            is a group of its own, with name, lr (0 until it is set), momentum and weight_decay. Its state is
            `velocity`, there from the start. Or these groups, as `group_of` makes them.
        momentum: factor of the old velocity.
        weight_decay: of the weights; that of biases is 0.
    """

    loss_scale = None  # of float16
    gathers = False  # whether `velocity_of` is for all replicas to call: ranks/zero1.py

    def __init__(self, named_parameters: Iterable, momentum: float, weight_decay: float):
        groups = [n if isinstance(n, dict) else group_of(*n, weight_decay) for n in named_parameters]
        super().__init__(groups, {"lr": 0.0, "momentum": momentum})
        for w in self._weights():
            self.state[w]["velocity"] = torch.zeros_like(w)
        self.halted = torch.zeros((), device=local(w).device)  # 1: no more updates

    def _weights(self):
        return [w for group in self.param_groups for w in group["params"]]

    def velocity_of(self, parameter: nn.Parameter) -> Tensor:
        """As large as the parameter."""
        return self.state[parameter]["velocity"]

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss."""
        loss.backward()

    @torch.no_grad()
    def halt_unless_finite(self, loss: Tensor) -> None:
        """From the first loss on that is not finite, `step` changes nothing: weights stay what they were when
        it appeared. Does not wait for a GPU. Another replica's bad loss is not seen here, but DDP's mean
        carries it into every gradient, so that of the last bias is looked at too."""
        sign = loss.detach()
        last = self._weights()[-1].grad
        if last is not None:
            sign = sign + local(last).sum()
        self.halted.logical_or_(sign.isfinite().logical_not_())

    @torch.no_grad()
    def step(self, closure=None):
        """One update from the gradients that backward left, unless halted; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        alike = defaultdict(list)
        for group in self.param_groups:
            rule = group["lr"], group["momentum"], group["weight_decay"]
            for w in [w for w in group["params"] if w.grad is not None and group["lr"] != 0]:
                alike[rule].append(_in_memory(w, w.grad, self.state[w]["velocity"]))
        for rule, tensors in alike.items():
            update(tensors, self.halted, *rule)
        return loss


def group_of(name: str, parameter: nn.Parameter, weight_decay: float) -> dict:
    """The group of a parameter."""
    decay = weight_decay if name.endswith(".weight") else 0.0
    return {"params": [parameter], "name": name, "weight_decay": decay}


def _in_memory(weight, gradient, velocity):
    """Each as one row of numbers, in the order in which the weight lies in memory, since the kernel relies on
    their all having the same."""
    weight, gradient, velocity = map(local, (weight, gradient, velocity))
    if gradient.stride() != weight.stride():
        gradient = torch.empty_like(weight).copy_(gradient)
    assert velocity.stride() == weight.stride(), "the weight has changed its layout"
    return [t.as_strided((t.numel(),), (1,)) for t in (weight, gradient, velocity)]


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that FSDP2 has shared out over ranks; else the tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def rate_of(schedule: Iterable[Change], epoch: int, layer: str, kind: str) -> float:
    """The rate in force in `epoch` (from 1) for the `kind`, "weights" or "biases", of a layer.

    What the schedule says of single layers prevails over what it says of all, also when that changes later. A
    name that the schedule does not know, such as "", is any other layer.
    """
    begun = [change for change in schedule if change.epoch <= epoch]
    own = [change.layers[layer] for change in begun if layer in change.layers]
    said = [getattr(rates, kind) for rates in [*begun, *own]]
    return [rate for rate in said if rate is not None][-1]


def set_rates(optimizer: SGD2012, schedule: Iterable[Change], epoch: int) -> None:
    """Give every parameter the rate that the schedule has for it in `epoch`."""
    for group in optimizer.param_groups:
        layer, kind = group["name"].split(".")[-2:]
        group["lr"] = rate_of(schedule, epoch, layer, "biases" if kind == "bias" else "weights")
