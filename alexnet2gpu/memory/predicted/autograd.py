"""Autograd on a tape of sizes: nodes are recorded forward and played backward.

    y = graph.apply(cost, [x])      a node: what it gives and keeps goes on the tape
    graph.loss(y)                   cross-entropy of it, and its gradient
    graph.backward({y: gradient})   back through all nodes, the latest first

When a node has run, the gradient that it was given is gone, and so is what it kept. A second gradient of
one tensor is added to the first in place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alexnet2gpu.memory.predicted.layers import Cost
from alexnet2gpu.memory.predicted.tape import Storage, Tape


@dataclass(eq=False)
class Value:
    """A tensor of the graph."""

    storage: Storage  # where it lies
    width: int  # bytes of an element
    differentiable: bool = True  # whether backward reaches it
    half: Storage | None = None  # what is kept instead, if it was gathered and is to be gathered again
    gathering: int = 0  # what this takes besides the result


@dataclass(eq=False)
class Node:
    """What ran in a place, from what to what, and what is kept of it. One with `again` stands for several
    that were not recorded: it runs them again and gives their graph and output."""

    place: tuple
    cost: Cost
    reads: Sequence[Value]
    gives: Value
    kept: list[Storage] = field(default_factory=list)
    again: Callable | None = None


class Graph:
    """Nodes in order, noted on a tape. `store` is called with the storage of each weight's gradient, to
    hold or to drop it; `recording`: whether anything is kept for backward."""

    def __init__(self, tape: Tape, store: Callable[[Storage], None], recording: bool = True):
        self.tape, self.store, self.recording = tape, store, recording
        self.nodes: list[Node] = []
        self.cache: list[Storage] = []  # autocast's copies of weights

    def apply(self, cost: Cost, reads: Sequence[Value]) -> Value:
        """Run a node; its output is held once, by the caller."""
        tape, x = self.tape, reads[0]
        tape.surge(cost.forward)
        cached = [tape.new(size, "bfloat16 weights") for size in cost.cached]
        self.cache += cached
        storage = tape.new(cost.gives, "activations") if cost.gives else tape.hold(x.storage)
        reached = bool(cost.parameters) or any(value.differentiable for value in reads)
        node = Node(tape.place, cost, reads, Value(storage, cost.width, reached))
        if self.recording and reached:
            if cost.keeps_input:
                node.kept.append(tape.hold(x.half or x.storage))
            if cost.keeps_output:
                node.kept.append(tape.hold(storage))
            if cost.keeps:
                node.kept.append(tape.new(cost.keeps, "activations"))
            if cost.keeps_cached:
                node.kept.append(tape.hold(cached[0]))
            self.nodes.append(node)
        return node.gives

    def end_autocast(self) -> None:
        """Autocast forgets its copies of weights; some are kept for backward."""
        while self.cache:
            self.tape.drop(self.cache.pop())

    def loss(self, logits):
        """Cross-entropy, in float32 or better, forward and backward. Returns: the gradient of the logits,
        and the 1 that backward starts from, which stays till its end."""
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

    def backward(self, gradients: dict[Value, Storage]) -> None:
        """Play all nodes. `gradients`, each held once: of the graph's outputs at first; in the end those of
        what other graphs gave."""
        for node in reversed(self.nodes):
            if self.tape.place != (place := ("backward", *node.place[1:])):
                self.tape.at(*place)
            if node.again:
                inner, output = node.again()
                gradients[output] = gradients.pop(node.gives)
                inner.backward(gradients)
                left = []
            else:
                left = self._run_backward(node, gradients)
            for storage in node.kept:
                self.tape.drop(storage)
            for storage, size in left:
                self._leave(storage, size)

    def _run_backward(self, node, gradients):
        """The node itself: gradients of what it read. Returns those of its weights, each with the bytes
        that it is to have in the end."""
        tape, cost, gradient = self.tape, node.cost, gradients.pop(node.gives)
        first = node.reads[0]
        if first.half and cost.keeps_input:
            tape.surge(first.storage.bytes + max(cost.backward, first.gathering))
        else:
            tape.surge(cost.backward)
        for x in node.reads:
            if x.differentiable:
                new = "gradients of activations"
                of_x = tape.new(cost.gradient, new) if cost.gradient else tape.hold(gradient)
                if x in gradients:
                    tape.drop(of_x)  # added to the one that is there
                else:
                    gradients[x] = of_x
        left = [tape.new(size, "gradients") for size in cost.copies or cost.parameters]
        tape.drop(gradient)
        return zip(left, cost.parameters)

    def _leave(self, storage, size):
        """A weight's gradient, from bfloat16 if need be, to where it stays."""
        if storage.bytes != size:
            copy, storage = storage, self.tape.new(size, "gradients")
            self.tape.drop(copy)
        self.store(storage)
