"""Rules over several keys: layers fit each other, images the network; rates are known; options agree."""

from collections import Counter

from alexnet2gpu.config.layers import Conv, Linear
from alexnet2gpu.config.network import trace
from alexnet2gpu.config.schema import Problem
from alexnet2gpu.config.text import shape_text


def check_rules(config) -> None:
    """Of a whole Config. Raises: Problem, naming the key."""
    stages, data, reads = config.model.stages, config.data, config.model.input
    if not stages or not all(stages):
        raise Problem("model.stages", "should be a list of stages, each with at least one layer")
    rows = trace(config.model)
    times = Counter(row.name for row in rows)
    for row in rows:
        key = f"model.stages.{row.stage}.{row.name}"
        if not row.name.isidentifier() or times[row.name] > 1:
            raise Problem(key, "a layer's name is one word of letters and digits, there only once")
    if not isinstance(row.layer, Linear):
        raise Problem(key, "the last layer should be linear: the logits")
    key, side = ("data.resize", data.resize) if data.resize else ("data.crop", data.crop)
    if side and reads[1:] != (side, side):
        raise Problem(key, f"gives {side}x{side} images, but model.input is {shape_text(reads)}")
    if data.divide == 0:
        raise Problem("data.divide", "should not be 0")
    if not data.colour and any(change.colour for change in config.optim.schedule):
        raise Problem("optim.schedule", "changes the colour noise, but data.colour is 0")
    if max(config.memory.recompute, default=0) > len(stages):
        raise Problem("memory.recompute", f"lists stages, and model.stages has {len(stages)}")
    if config.exchange.overlap:
        _check_overlap(config.memory, rows)
    if config.optim.zero1 and config.train.precision == "float16":
        raise Problem("optim.zero1", "not together with train.precision float16")
    if config.optim.fc_updates > 1:
        _check_updates(config.optim.fc_updates, config.train, config.model)
    _check_schedule(config.optim.schedule, {row.name for row in rows if row.parameters})


def _check_overlap(memory, rows):
    if memory.regather or memory.recompute:
        raise Problem("exchange.overlap", "not together with memory.regather or memory.recompute")
    for before, row in zip(rows, rows[1:]):
        suits = isinstance(row.layer, Conv | Linear) and not getattr(row.layer, "ceil", False)
        if row.stage > before.stage and not suits:
            rule = "needs stages that begin with a linear layer or a convolution without ceil"
            raise Problem("exchange.overlap", f"{rule}; {row.name} is none")


def _check_updates(updates, train, network):
    if train.batch % updates:
        raise Problem("optim.fc_updates", f"should divide train.batch, {train.batch}")
    if train.accumulate > 1 or train.precision == "float16":
        raise Problem("optim.fc_updates", "not together with train.accumulate or float16")
    if not network.mixed:
        raise Problem("optim.fc_updates", "needs a stage of convolutions before dropout, and others")


def _check_schedule(schedule, layers):
    epochs = [change.epoch for change in schedule]
    complete = schedule and None not in (schedule[0].weights, schedule[0].biases)
    if epochs[:1] != [1] or epochs != sorted(set(epochs)) or not complete:
        raise Problem("optim.schedule", "starts with epoch 1, weights and biases given, and goes on in order")
    for change in schedule:
        for name in change.layers.keys() - layers:
            unknown = f"no layer with weights is called {name}"
            raise Problem("optim.schedule", f"epoch {change.epoch}: {unknown}")
