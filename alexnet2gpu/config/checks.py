"""What no single key of a config shows: layers fit each other, images the network, rates are
known, options go together."""

from alexnet2gpu.config.layers import Conv, Linear
from alexnet2gpu.config.network import trace
from alexnet2gpu.config.schema import Problem
from alexnet2gpu.config.text import shape_text


def check(config) -> None:
    """Of a whole Config. Raises: Problem, naming the key."""
    if not config.model.stages or not all(config.model.stages):
        raise Problem("model.stages", "should be a list of stages, each with at least one layer")
    rows = trace(config.model)
    names = [row.name for row in rows]
    for row in rows:
        key = f"model.stages.{row.stage}.{row.name}"
        if not row.name.isidentifier() or names.count(row.name) > 1:
            raise Problem(key, "a layer's name is one word of letters and digits, there only once")
    if not isinstance(rows[-1].layer, Linear):
        raise Problem(key, "the last layer should be linear: the logits")
    side = config.data.resize or config.data.crop
    if side and config.model.input[1:] != (side, side):
        key, reads = "resize" if config.data.resize else "crop", shape_text(config.model.input)
        raise Problem(f"data.{key}", f"gives {side}x{side} images, but model.input is {reads}")
    if config.data.divide == 0:
        raise Problem("data.divide", "should not be 0")
    if not config.data.colour and any(change.colour for change in config.optim.schedule):
        raise Problem("optim.schedule", "changes the colour noise, but data.colour is 0")
    if max(config.memory.recompute, default=0) > (stages := len(config.model.stages)):
        raise Problem("memory.recompute", f"lists stages, and model.stages has {stages}")
    if config.exchange.overlap:
        _check_overlap(config.memory, rows)
    _check_schedule(config.optim.schedule, {row.name for row in rows if row.parameters})


def _check_overlap(memory, rows):
    if memory.regather or memory.recompute:
        raise Problem("exchange.overlap", "not together with memory.regather or memory.recompute")
    for before, row in zip(rows, rows[1:]):
        begins, hangs = row.stage > before.stage, getattr(row.layer, "ceil", False)
        if begins and (hangs or not isinstance(row.layer, Conv | Linear)):
            rule = "needs stages that begin with a linear layer or a convolution without ceil"
            raise Problem("exchange.overlap", f"{rule}; {row.name} is none")


def _check_schedule(schedule, layers):
    epochs = [change.epoch for change in schedule]
    first = schedule[0] if schedule else None
    complete = first and None not in (first.weights, first.biases)
    rule = "starts with epoch 1, weights and biases given, and goes on in order"
    if epochs[:1] != [1] or epochs != sorted(set(epochs)) or not complete:
        raise Problem("optim.schedule", rule)
    for change in schedule:
        for name in change.layers.keys() - layers:
            unknown = f"no layer with weights is called {name}"
            raise Problem("optim.schedule", f"epoch {change.epoch}: {unknown}")
