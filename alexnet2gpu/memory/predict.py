"""The memory of a training step, from its config alone: nothing is run, nothing allocated.

The step of train.py is played on a tape of sizes (tape.py): forward through stages and joins, the
loss, back through the same nodes (graph.py), the update. costs.py says what each layer needs. The
rest is who else holds what:

- A layer's input is held while the layer runs, a stage's input while all towers run the stage.
- Gradients of the last step go when the next one starts, those of weights stay when they come.
- Under DDP each is copied into its bucket at once, and buckets are always there.

So activations pile up going forward. Going back, they make place for gradients, those of fc6, by
far the largest, among the first: the worst moment lies there, or in the layers right after.
"""

import math
from dataclasses import dataclass, replace

from alexnet2gpu.config import Config
from alexnet2gpu.memory.costs import Cost, Sizes, costs
from alexnet2gpu.memory.graph import Graph, Node, Value
from alexnet2gpu.memory.tape import Moment, Tape
from alexnet2gpu.network import trace

WIDTHS = {"float32": (4, 4), "bfloat16": (4, 2), "float64": (8, 8)}  # of weights, of computing
LABEL = 8  # bytes of one


@dataclass(frozen=True)
class Prediction:
    """What a rank holds in a step.

    bytes     by category, as measure.py has them
    saved     of the saved activations, by (tower, layer) that made them
    moments   the worst moment in every place of the step, in order
    """

    bytes: dict[str, int]
    saved: dict[tuple, int]
    moments: list[Moment]

    @property
    def worst(self) -> Moment:
        """The moment of the peak."""
        return max(self.moments, key=lambda moment: moment.bytes)


def predict(
    config: Config, towers: int, span: int = 1, replicas: int = 1, on_gpu: bool = False
) -> Prediction:
    """Play one step of a rank that holds `towers` of the network's towers, in one of `replicas`
    replicas, which is split over `span` ranks. `on_gpu` matters to how activations are
    exchanged, and to how many images are normalised at once."""
    return _Step(config, towers, span, replicas, on_gpu).play()


class _Step:
    def __init__(self, config, towers, span, replicas, on_gpu):
        self.config, self.levers = config, config.memory
        self.towers, self.span, self.replicas, self.on_gpu = towers, span, replicas, on_gpu
        self.weight, compute = WIDTHS[config.train.precision]
        self.images = config.train.batch // replicas
        self.sizes = Sizes(self.images, on_gpu, self.weight, compute)
        self.rows = trace(config.model)
        self.tape = Tape()
        self.half = None
        in_buckets = replicas > 1 and config.memory.gradients_in_buckets
        self.graph = Graph(self.tape, self.tape.drop if in_buckets else lambda storage: None)

    def play(self):
        """The whole step."""
        tape, images, replicated = self.tape, self.images, self.replicas > 1
        parameters = self.towers * sum(row.parameters for row in self.rows) * self.weight
        for kind in ("weights", "momentum"):
            tape.new(parameters, kind)
        batch = tape.new(images * (math.prod(self.rows[0].reads) * self.weight + LABEL), "batch")
        if replicated:
            tape.new(parameters, "buckets")
        if not replicated or not self.levers.gradients_in_buckets:
            tape.drop(tape.new(parameters, "gradients"))  # of the last step
        logits = self.forward(Value(tape.hold(batch), self.weight, differentiable=False))
        saved = self.saved()
        self.graph.end_autocast()
        gradient, one = self.loss(logits)
        self.graph.backward({logits: gradient})
        tape.drop(one)
        tape.at("update", None, "")
        tape.surge(images * (LABEL + 1))  # the answers, and whether they are wrong
        categories = {
            "weights": parameters,
            "gradients": parameters,
            "momentum": parameters,
            "buckets": parameters if replicated else 0,
            "batch": batch.bytes,
            "saved_activations": sum(saved.values()),
            "peak": max(moment.bytes for moment in tape.moments),
        }
        return Prediction(categories, saved, tape.moments)

    def forward(self, x):
        """All stages and joins. Returns: the logits."""
        for stage in range(len(self.config.model.stages)):
            outputs = [self.stage(self.graph, stage, tower, x) for tower in range(self.towers)]
            self.tape.at("forward", None, f"join {stage + 1}")
            joined = self.join(stage, outputs)
            self.tape.drop(x.storage)
            x = joined
        self.tape.at("forward", None, "loss")
        return x

    def stage(self, graph, stage, tower, x):
        """One tower's part of a stage, to be recorded or to be run again. Returns: its output."""
        if stage + 1 not in self.levers.recompute:
            return self.layers(graph, "forward", stage, tower, x)
        unrecorded = Graph(self.tape, graph.store, recording=False)
        y = self.layers(unrecorded, "forward", stage, tower, x)
        graph.cache += unrecorded.cache

        half = x.half

        def again():
            inner = Graph(self.tape, graph.store)
            if half:  # gathered again, for this once
                self.tape.surge(x.storage.bytes + x.gathering)
                x.storage, x.half = self.tape.new(x.storage.bytes, "activations"), None
            output = self.layers(inner, "recompute", stage, tower, x)
            inner.end_autocast()
            self.tape.drop(output.storage)
            if half:
                self.tape.drop(x.storage)
            return inner, output

        kept = [self.tape.hold(half or x.storage)]
        y = Value(y.storage, y.width)
        graph.nodes.append(Node(self.tape.place, Cost(width=y.width), [x], y, kept, again))
        return y

    def layers(self, graph, passing, stage, tower, x):
        """The layers of a stage, one after another."""
        self.tape.hold(x.storage)
        before, y = None, replace(x)
        first = True
        for row in self.rows:
            if row.stage == stage:
                self.tape.at(passing, tower, row.name)
                for cost in costs(row, before, y.width, self.sizes, self.levers):
                    x, y = y, graph.apply(cost, [x if first else y])
                    self.tape.drop(x.storage)
                    first = False
                before = row.layer
        return y

    def join(self, stage, outputs):
        """Towers on this rank side by side, then those of all ranks. Returns: what all read."""
        width = outputs[0].width
        half = sum(output.storage.bytes for output in outputs)
        y = outputs[0]
        if self.towers > 1:
            y = self.graph.apply(Cost(gives=half, width=width, forward=half), outputs)
            for output in outputs:
                self.tape.drop(output.storage)
        if self.span == 1:
            return y
        last = stage == len(self.config.model.stages) - 1
        joined = self.graph.apply(self.exchange(half, width, last), [y])
        if self.levers.regather:
            self.forget_half()
            if not last:
                self.half = joined.half = self.tape.hold(y.storage)
                joined.gathering = (self.span if self.on_gpu else self.span - 1) * half
        self.tape.drop(y.storage)
        return joined

    def forget_half(self):
        """regather.py holds the latest one, also before it is kept."""
        if self.half:
            self.tape.drop(self.half)
        self.half = None

    def exchange(self, half, width, last):
        """exchange.py: messages on the CPU, collectives on GPUs; `last` gathers logits."""
        n = self.span
        sliced = n * half if self.images > 1 else 0  # slices of one image are views
        if self.on_gpu:
            forward, backward = 2 * n * half, sliced + n * half + half
        else:
            forward = (n - 1) * half + n * half
            backward = sliced + (n - 1) * half + (half if n == 2 else 2 * half)
        if last:
            return Cost(gives=n * half, width=width, forward=forward)
        return Cost(gives=n * half, width=width, forward=forward, gradient=half, backward=backward)

    def saved(self):
        """Bytes of what the forward pass has left for backward, by who made it."""
        made = {}
        for storage in self.tape.held:
            passing, tower, layer = storage.born
            if passing == "forward":
                made[tower, layer] = made.get((tower, layer), 0) + storage.bytes
        return made

    def loss(self, logits):
        """Cross-entropy, in float32 or better, forward and backward. Returns: the gradient of the
        logits, and the 1 that backward starts from, which stays till its end."""
        tape, width = self.tape, max(logits.width, 4)
        size = logits.storage.bytes // logits.width * width
        if logits.width < width:
            tape.new(size, "activations")  # logits in float32, which stay
            tape.drop(logits.storage)
        log_softmax = tape.new(size, "activations")
        tape.new(width, "activations")  # the loss
        one = tape.new(width, "gradients of activations")
        tape.surge(2 * size)
        gradient = tape.new(size, "gradients of activations")
        tape.drop(log_softmax)
        if logits.width < width:
            wide, gradient = gradient, tape.new(logits.storage.bytes, "gradients of activations")
            tape.drop(wide)
        return gradient, one
