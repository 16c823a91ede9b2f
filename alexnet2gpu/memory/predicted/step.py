"""The memory of a training step, from its config alone: nothing is run, nothing allocated.

The step of model/step.py is played on a tape of sizes (tape.py): forward through stages and joins, the
loss, back through the same nodes (autograd.py), the update. layers.py says what each layer needs,
exchange.py what exchanges do. The rest is who else holds what:

- A layer's input is held while the layer runs, a stage's input while all towers run the stage.
- Gradients of the last step go when the next one starts, those of weights stay when they come.
- Under DDP each is copied into its bucket at once, and buckets are always there.

So activations pile up going forward. Going back, they make place for gradients, those of fc6, by far the
largest, among the first: the worst moment lies there, or in the layers right after.
"""

import math
from dataclasses import dataclass, replace

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import trace
from alexnet2gpu.memory.predicted.autograd import Graph, Node, Value
from alexnet2gpu.memory.predicted.exchange import Travel, exchanged, gathered, overlapped
from alexnet2gpu.memory.predicted.layers import Cost, Sizes, costs
from alexnet2gpu.memory.predicted.tape import Moment, Tape

WIDTHS = {"float32": (4, 4), "bfloat16": (4, 2), "float64": (8, 8)}  # of weights, of computing
LABEL = 8  # bytes of one


@dataclass(frozen=True)
class Prediction:
    """What a rank holds in a step."""

    bytes: dict[str, int]  # by category, as measured/step.py has them
    saved: dict[tuple, int]  # of the saved activations, by (tower, layer) that made them
    moments: list[Moment]  # the worst in every place of the step, in order

    @property
    def worst(self) -> Moment:
        """The moment of the peak."""
        return max(self.moments, key=lambda moment: moment.bytes)


def predict_step(
    config: Config, towers: int, span: int = 1, replicas: int = 1, on_gpu: bool = False, kernel: bool = True
) -> Prediction:
    """Play one step of a rank that holds `towers` of the network's towers, in one of `replicas` replicas,
    which is split over `span` ranks. `on_gpu` matters to how activations are exchanged; `kernel`, whether
    there are any (norm/layer.py), to what normalisation takes, and max-pooling on a GPU."""
    return _Step(config, towers, span, replicas, on_gpu, kernel).play()


class _Step:
    def __init__(self, config, towers, span, replicas, on_gpu, kernel):
        self.config, self.levers = config, config.memory
        self.towers, self.span, self.replicas, self.on_gpu = towers, span, replicas, on_gpu
        self.weight, compute = WIDTHS[config.train.precision]
        self.images = config.train.batch // replicas
        self.sizes = Sizes(self.images, on_gpu, kernel, self.weight, compute)
        self.rows = trace(config.model)
        self.tape = Tape()
        self.half = None
        self.wire = 2 if config.exchange.precision else 8  # at most, bytes of what travels
        self.overlap = config.exchange.overlap and span > 1 and towers == 1
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
        gradient, one = self.graph.loss(logits)
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

    def dense(self, row):
        """Whether linear.py copies parts of the layer's weight, for oneDNN."""
        sizes = self.sizes
        float32 = sizes.weight == sizes.compute == 4
        return isinstance(row.layer, kinds.Linear) and float32 and not sizes.on_gpu

    def layers(self, graph, passing, stage, tower, x):
        """The layers of a stage, one after another."""
        self.tape.hold(x.storage)
        before, y, first = None, replace(x), True
        for row in self.rows:
            if row.stage == stage:
                self.tape.at(passing, tower, row.name)
                nodes = costs(row, before, y.width, self.sizes, self.levers)
                if first and stage and self.overlap:
                    travel = self.travel(stage - 1, x.storage.bytes, x.width)
                    nodes = [overlapped(nodes[0], travel, self.dense(row))]
                for cost in nodes:
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
        last = stage == len(self.config.model.stages) - 1
        if self.span == 1 or self.overlap and not last:
            return y
        travel = self.travel(stage, half, width, last)
        joined = self.graph.apply(gathered(travel) if last else exchanged(travel), [y])
        if self.levers.regather:
            if self.half:  # regather.py held the latest one until now, also before it was kept
                self.tape.drop(self.half)
            self.half = joined.half = None if last else self.tape.hold(y.storage)
            joined.gathering = travel.gathering
        self.tape.drop(y.storage)
        return joined

    def travel(self, stage, half, width, last=False):
        """Of the halves, so many bytes of `width` each, that a stage gives; `last`: logits."""
        sent = half if last else half // width * min(width, self.wire)
        pixels = math.prod([row.gives for row in self.rows if row.stage == stage][-1][1:])
        views = sent == half and self.images * pixels == 1
        return Travel(self.span, self.on_gpu, half, width, sent, views)

    def saved(self):
        """Bytes of what the forward pass has left for backward, by who made it."""
        made = {}
        for storage in self.tape.held:
            passing, tower, layer = storage.born
            if passing == "forward":
                made[tower, layer] = made.get((tower, layer), 0) + storage.bytes
        return made
