"""A training step as one CUDA graph, which takes the CPU one launch instead of some 200.

A graph repeats kernels with the addresses and the numbers that it was recorded with:

    images, labels   must lie where they lay then, or are copied there
    dropout          its generators are registered, so each replay draws by the seed that was set before it
    rates            are numbers in the update's kernels: when one changes, the step is recorded again
    memory           is a pool of the graph's own, which stays taken between replays; gradients lie in it

The towers of a network are recorded side by side, each on a stream of its own, and so is the way back, since
autograd runs every node on the stream of its forward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from alexnet2gpu.model.model import AlexNet, Tower, one_by_one
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.model.step import How, train_step

FIRST = 2  # steps that are not recorded: libraries choose their kernels, Triton builds ours


class GraphedStep:
    """`train_step` of a model with all its towers on one GPU. Called with images (B, C, H, W) and labels (B,)
    there, B the same at every call, it returns what `train_step` does; `how` as there."""

    def __init__(self, model: AlexNet, optimizer: SGD2012, how: How = How()):
        self.model, self.optimizer, self.how = model, optimizer, how
        self.stream, self.side_by_side = torch.cuda.Stream(), SideBySide(len(model.towers))
        self.calls, self.rates, self.graph = 0, None, None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """One update. Raises: RuntimeError or torch.OutOfMemoryError if the step cannot be recorded."""
        self.calls += 1
        if self.calls <= FIRST:
            return train_step(self.model, self.optimizer, images, labels, self.how)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        if rates != self.rates:
            self._record(images, labels)
            self.rates = rates
        for recorded, given in zip(self.batch, (images, labels)):
            if given is not recorded:
                recorded.copy_(given)
        self.graph.replay()
        return self.figures.clone()  # the next replay writes there

    def _record(self, images, labels):
        """Record the step, which is not carried out."""
        self.graph = self.figures = self.rates = None
        self.optimizer.zero_grad(set_to_none=True)  # gradients lie in the old graph's pool
        self.graph, self.batch = torch.cuda.CUDAGraph(), (images, labels)
        for tower in self.model.towers.values():
            self.graph.register_generator_state(tower.own_generator())
        self.model.run = self.side_by_side
        # thread_local: meanwhile other threads wait for copies of the next batches
        how = {"stream": self.stream, "capture_error_mode": "thread_local"}
        try:
            with torch.cuda.graph(self.graph, **how):
                self.figures = train_step(self.model, self.optimizer, images, labels, self.how)
        except RuntimeError as error:  # of a recording that was broken off; what broke it counts
            lacked = isinstance(error.__context__, torch.OutOfMemoryError)
            raise (error.__context__ if lacked else error) from None
        finally:
            self.model.run = one_by_one


class SideBySide:
    """Instead of model.one_by_one: all towers but the first on streams of their own. What they read and give
    is held until the streams meet again, at the stage's end. The first tower comes last, so autograd goes
    back through it first: what all have read is let go of by another stream, and the main one waits for that
    before it writes there."""

    def __init__(self, towers: int):
        self.streams = [torch.cuda.Stream() for _ in range(towers - 1)]

    def __call__(self, towers: Sequence[Tower], stage: int, x: Tensor) -> list[Tensor]:
        main, others = torch.cuda.current_stream(), []
        try:
            for stream, tower in zip(self.streams, towers[1:]):
                stream.wait_stream(main)
                with torch.cuda.stream(stream):
                    others.append(tower(stage, x))
            return [towers[0](stage, x), *others]
        finally:  # also after an error: a recording ends where all streams have met
            for stream in self.streams:
                main.wait_stream(stream)
