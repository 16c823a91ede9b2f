"""If these fail, a step that is replayed as a CUDA graph is not the step: it reads other images, draws other
masks, updates by old rates, or gives what a later step overwrites.

There is no GPU here, so a graph is played: operations are noted while a step is carried out on the CPU, what
it has changed is put back, and a replay does them again, into the same memory."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model import graph
from alexnet2gpu.model.graph import GraphedStep
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.model.step import How, train_step
from alexnet2gpu.ranks.assemble import Parts, graph_of
from alexnet2gpu.ranks.modes import Grid

CONFIG = load_config("configs/quick.yaml", ["train.precision=float64"])


class Played(TorchDispatchMode):
    """In the place of torch.cuda.CUDAGraph."""

    def __init__(self):
        super().__init__()
        self.operations, self.generators = [], []

    def register_generator_state(self, generator):
        self.generators.append(generator)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if drawn_by := kwargs.get("generator"):  # another object here, the same generator
            assert drawn_by.initial_seed() in [each.initial_seed() for each in self.generators]
        self.operations.append((function, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self):
        with torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, result in self.operations:
                again = function(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again)):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


@pytest.fixture
def parts(monkeypatch):
    """A model and its optimizer, whose steps a played graph records without changing them."""
    model = AlexNet(CONFIG.model, seed=0).double()
    optimizer = SGD2012(model.named_parameters(), 0.9, 0.0005)

    @contextlib.contextmanager
    def record(played, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        state = [*model.parameters(), *(s["velocity"] for s in optimizer.state.values()), optimizer.halted]
        before = [tensor.detach().clone() for tensor in state]
        drawn = [generator.get_state() for generator in played.generators]
        with played:
            yield
        for generator, at in zip(played.generators, drawn):
            generator.set_state(at)
        with torch.no_grad():
            for tensor, value in zip(state, before):
                tensor.copy_(value)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Played)
    monkeypatch.setattr(torch.cuda, "graph", record)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    return model, optimizer


def losses(model, optimizer, do_step, steps=7):
    """Of some steps; the rates fall before the sixth, and every other batch lies where the first lay."""
    draw, found = torch.Generator().manual_seed(1), []
    static = torch.empty(3, *CONFIG.model.input, dtype=torch.float64), torch.empty(3, dtype=torch.int64)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 if step < 5 else 0.0001
        batch = static if step % 2 == 0 else tuple(map(torch.empty_like, static))
        batch[0].copy_(60 * torch.randn(static[0].shape, generator=draw, dtype=torch.float64))
        batch[1].copy_(torch.randint(10, (3,), generator=draw))
        model.seed_dropout(0, 0, step)
        found.append(do_step(*batch))
    return torch.stack(found), [p.detach().clone() for p in model.parameters()]


def test_replayed_steps_are_the_steps(parts, monkeypatch):
    """Losses and weights, to the bit; recorded twice, since the rates have changed once."""
    model, optimizer = parts
    recorded, record = [], GraphedStep._record
    monkeypatch.setattr(GraphedStep, "_record", lambda self, *b: (recorded.append(self), record(self, *b)))
    replayed = losses(model, optimizer, GraphedStep(model, optimizer, How("float64")))
    eager_model = AlexNet(CONFIG.model, seed=0).double()
    eager = SGD2012(eager_model.named_parameters(), 0.9, 0.0005)
    expected = losses(
        eager_model, eager, lambda *batch: train_step(eager_model, eager, *batch, How("float64"))
    )
    assert torch.equal(replayed[0], expected[0])
    assert all(map(torch.equal, replayed[1], expected[1]))
    assert len(recorded) == 2
    assert len(set(replayed[0][:, 0].tolist())) == 7


def test_towers_are_recorded_side_by_side_and_run_one_by_one_again(parts, monkeypatch):
    model, optimizer = parts
    seen, apart = [], graph.SideBySide.__call__

    def noted(self, towers, *stage):
        seen.append(len(towers))
        return apart(self, towers, *stage)

    monkeypatch.setattr(graph.SideBySide, "__call__", noted)
    losses(model, optimizer, GraphedStep(model, optimizer, How("float64")), steps=4)
    assert seen == [2] * len(CONFIG.model.stages)
    assert model.run is graph.one_by_one


@pytest.mark.parametrize(
    "settings, device, world, expected",
    [
        ([], "cuda", 1, True),
        (["train.graph=false"], "cuda", 1, False),
        (["memory.recompute=[1]"], "cuda", 1, False),
        ([], "cpu", 1, False),
        ([], "cuda", 2, False),
    ],
)
def test_a_graph_on_one_gpu_alone(parts, settings, device, world, expected):
    config = load_config("configs/quick.yaml", settings)
    ranks = SimpleNamespace(device=torch.device(device), grid=Grid(world=world))
    model, optimizer = parts
    assert (graph_of(Parts(model, model, optimizer), config, ranks) is not None) is expected


def test_memory_that_a_graph_lacks_is_said_as_that(parts, monkeypatch):
    """To leave a recording that was broken off raises an error of its own."""

    @contextlib.contextmanager
    def broken(played, stream, capture_error_mode):
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def lacking(*step):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model, optimizer = parts
    graphed = GraphedStep(model, optimizer, How("float64"))
    graphed.calls = graph.FIRST
    monkeypatch.setattr(torch.cuda, "graph", broken)
    monkeypatch.setattr(graph, "train_step", lacking)
    with pytest.raises(torch.OutOfMemoryError):
        graphed(torch.zeros(1), torch.zeros(1))
    assert model.run is graph.one_by_one
