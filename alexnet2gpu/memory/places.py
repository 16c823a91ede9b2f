"""Places in a step where a process is, as told by hooks: (pass, module), in the order of execution.

start                          before the forward pass: gradients of the last step are let go
forward    towers.0.conv1      a module, by its name in the model; "" is the model itself, between others
forward    loss                the loss and its own backward
backward   towers.0.conv1      from the first of its operations on
recompute  towers.0.conv1      forward once more, in the middle of backward
update                         the optimizer's step
"""

import contextlib
import gc
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Place = tuple[str, str]
START, LOSS, UPDATE = ("start", ""), ("forward", "loss"), ("update", "")


@contextlib.contextmanager
def without_garbage() -> Iterator[None]:
    """A context for a step that is watched: nothing is left that Python's collector would let go of (FSDP
    leaves some in every step), and it does not come in between."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Places:
    """A context around a step of a model. Calls `arrive(place)` in every new place, and `end_forward()` as
    the model has given its output, before the loss."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        arrive: Callable[[Place], None],
        end_forward: Callable[[], None] = lambda: None,
    ):
        self.model, self.optimizer, self.arrive, self.end_forward = model, optimizer, arrive, end_forward

    def __enter__(self):
        self.passing, self.within = "forward", []  # names of modules, the innermost last
        self.hooks = [self.optimizer.register_step_pre_hook(lambda *_: self.arrive(UPDATE))]
        for name, module in self.model.named_modules():
            enter, leave = partial(self._enter, name), partial(self._leave, name)
            self.hooks.append(module.register_forward_pre_hook(enter))
            self.hooks.append(module.register_forward_hook(leave, always_call=True))
        return self

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def _enter(self, name, module, inputs):
        if self.within:
            self._announce(inputs, self.within[-1])
        elif not name:  # again, where gradients are summed up over several passes
            self.passing = "forward"
        self.within.append(name)
        self.arrive((self.passing, name))

    def _leave(self, name, module, inputs, output):
        self.within.pop()
        self._announce(output, name)
        if name:
            self.arrive((self.passing, self.within[-1] if self.within else ""))
        elif self.passing == "forward":
            self.end_forward()
            self.arrive(LOSS)
            self.passing = "recompute"

    def _announce(self, made, name):
        """Have the nodes that made these tensors say where they are, just before their backward runs, if
        nobody else has them do so."""
        if self.passing != "forward":
            return
        for tensor in tree_leaves(made):
            node = tensor.grad_fn if isinstance(tensor, Tensor) else None
            if node is not None and "place" not in node.metadata:
                node.metadata["place"] = name
                node.register_prehook(lambda _: self.arrive(("backward", name)))
