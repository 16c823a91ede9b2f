"""Places in a step where a process is, as told by hooks: (pass, tower, layer), in the order of execution.

start                       before the forward pass: gradients of the last step are let go
forward   0  conv1          a layer of tower 0
forward      join 1         where the towers' outputs are joined
forward      loss           the loss and its own backward
backward     join 5
backward  0  conv1          from the first of its operations on
recompute 0  conv1          forward once more, in the middle of backward
update                      the optimizer's step
"""

from collections.abc import Callable

from alexnet2gpu.ranks.assemble import Parts

Place = tuple[str, int | None, str]
START, LOSS, UPDATE = (("start", None, ""), ("forward", None, "loss"), ("update", None, ""))


class Places:
    """A context around a step. Calls `arrive(place)` in every new place, and `end_forward()` as the model has
    given its output, before the loss."""

    def __init__(self, parts: Parts, arrive: Callable[[Place], None], end_forward: Callable[[], None]):
        self.model, _, self.optimizer = parts
        self.arrive, self.end_forward = arrive, end_forward

    def __enter__(self):
        self.passing, self.last = "forward", None  # last: the node that ended the last layer
        towers = list(self.model.towers.values())
        self.hooks = [
            self.model.register_forward_hook(self._leave_model),
            self.optimizer.register_step_pre_hook(lambda *_: self.arrive(UPDATE)),
            towers[0].register_forward_pre_hook(self._begin_stage),
            towers[-1].register_forward_hook(self._end_stage),
        ]
        for tower in towers:
            for name, layer in tower.named_children():
                self._follow(layer, tower.index, name)
        return self

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()
        self.last = None  # the node refers to this object, in a circle that Python cannot see

    def _follow(self, layer, tower, name):
        def enter(*_):
            self.arrive((self.passing, tower, name))

        def leave(layer, inputs, output):
            self._announce(output, ("backward", tower, name))

        self.hooks += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]

    def _announce(self, output, place):
        """Have the node that made `output` say where it is, just before its backward runs."""
        node = output.grad_fn
        if self.passing == "forward" and node is not None and node is not self.last:
            node.register_prehook(lambda gradients: self.arrive(place))
            self.last = node

    def _begin_stage(self, tower, inputs):
        stage, x = inputs[:2]
        self._announce(x, ("backward", None, f"join {stage}"))

    def _end_stage(self, tower, inputs, output):
        if self.passing == "forward":
            self.arrive(("forward", None, f"join {inputs[0] + 1}"))

    def _leave_model(self, model, inputs, output):
        self._announce(output, ("backward", None, f"join {len(model.joins)}"))
        self.end_forward()
        self.arrive(LOSS)
        self.passing = "recompute"
