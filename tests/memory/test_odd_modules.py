"""If these fail, estimate() fails on a module, or misses its peak, that does what users' modules do."""

import copy
import random
from functools import partial

import pytest
import torch
from test_any_module import ADAM, IMAGES, LABELS, SGD, peak_of
from torch import nn

from alexnet2gpu.memory import How, estimate


class Of(nn.Module):
    """Images -> (B, 26, 240) -> what `body` makes of it -> (B, 10)."""

    def __init__(self, body, width=240):
        super().__init__()
        self.body, self.last = body(), nn.Linear(width, 10)

    def forward(self, x):
        x = self.body(x.flatten(1).unflatten(1, (26, 240)))
        return self.last(x.mean(1))


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.unused = nn.Linear(240, 240), nn.Linear(240, 5000)

    def forward(self, x):
        return self.one(self.one(x).relu())


class Wide(nn.Module):
    """At its worst where the two gradients of its weight are added."""

    def __init__(self):
        super().__init__()
        self.one, self.last = nn.Linear(700, 700), nn.Linear(700, 10)

    def forward(self, x):
        x = x.flatten(1)[:, :700]
        return self.last(self.one(self.one(x).relu()).relu())


class Asks(nn.Linear):
    factor = torch.ones(240)

    def forward(self, x):
        assert not torch.isnan(x).any()
        return super().forward(x * self.factor) if x.sum() < 1e9 or True else None


def copies():
    layer = nn.Linear(240, 240)
    return nn.Sequential(*(copy.deepcopy(layer) for _ in range(3)))


def frozen():
    return nn.Sequential(nn.Linear(240, 300), nn.ReLU(), nn.Linear(300, 240)).requires_grad_(False)


def maps(*layers, double=False):
    """Of images (B, 26, 20, 12)."""
    made = nn.Sequential(nn.Unflatten(2, (20, 12)), *layers, nn.Flatten(2), nn.AdaptiveAvgPool1d(240))
    return made.double() if double else made


THERE = nn.Linear(52, 3)
BODIES = {
    "attention": partial(Attention, 240, 8, batch_first=True),
    "transformer": partial(nn.TransformerEncoderLayer, 240, 4, 300, batch_first=True),
    "a weight used twice, and one not at all": Twice,
    "questions of its data": partial(Asks, 240, 240),
    "copies": copies,
    "frozen": frozen,
    "transposed": lambda: maps(nn.ConvTranspose2d(26, 14, 3, stride=2)),
    "dilated": lambda: maps(nn.Conv2d(26, 32, 3, dilation=2)),
    "small groups": lambda: maps(nn.Conv2d(26, 39, 3, groups=13)),
}


@pytest.mark.parametrize("make_optimizer", [SGD, ADAM], ids=["SGD", "Adam"])
@pytest.mark.parametrize("name", BODIES)
@pytest.mark.slow
def test_a_module_is_estimated(name, make_optimizer):
    made = partial(Of, BODIES[name])
    model = made()
    optimizer = make_optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    expected = estimate(made, IMAGES, LABELS, make_optimizer)
    assert expected.peak == pytest.approx(peak_of(model, optimizer), rel=0.003)


def test_two_gradients_of_one_weight_are_added_in_a_third():
    """Since they are views, of what a product gave. In place, it would be 18 % less."""
    model = Wide()
    found = peak_of(model, SGD(model.parameters()))
    assert estimate(Wide, IMAGES, LABELS, SGD).peak == pytest.approx(found, rel=0.003)


def test_passes_of_an_update_are_no_recomputing():
    found = estimate(partial(Of, Twice), IMAGES, LABELS, SGD, How(accumulate=2))
    passes = [moment.place[0] for moment in found.moments]
    assert "recompute" not in passes and passes.index("backward") < len(passes) - passes[::-1].index(
        "forward"
    )


def test_what_is_around_stays_as_it_is_and_does_not_matter():
    expected, drawn = estimate(partial(Of, copies), IMAGES, LABELS, SGD).peak, random.getstate()
    with torch.no_grad():
        assert estimate(partial(Of, copies), IMAGES, LABELS, SGD).peak == expected
    estimate(partial(Of, copies), IMAGES, LABELS, SGD, How("fsdp", ranks=4))
    assert random.getstate() == drawn and torch.is_grad_enabled()


@pytest.mark.parametrize("wrap", [None, lambda module: isinstance(module, nn.TransformerEncoderLayer)])
@pytest.mark.slow
def test_fsdp_takes_attention_and_a_wrap_of_ones_own(wrap):
    made = partial(Of, BODIES["transformer"])
    whole = estimate(made, IMAGES, LABELS, SGD)
    found = estimate(made, IMAGES, LABELS, SGD, How("fsdp", ranks=4, wrap=wrap))
    on_gpu = estimate(made, IMAGES, LABELS, SGD, How("fsdp", ranks=4, wrap=wrap, device="cuda"))
    assert on_gpu.bytes["reserved"] > on_gpu.peak
    assert 0.25 <= found.bytes["weights"] / whole.bytes["weights"] < 0.26
    assert found.worst.parts["gathered weights"] > 0.5 * whole.bytes["weights"]


def test_on_a_gpu_the_allocator_reserves_more_than_it_is_asked_for():
    found = estimate(partial(Of, Twice), IMAGES, LABELS, SGD, How(device="cuda"))
    assert found.peak < found.bytes["reserved"] - 65 * 2**20 < found.peak + 60 * 2**20


def test_gradients_of_two_types_have_buckets_of_their_own():
    def mixed():
        return nn.Sequential(nn.Flatten(), nn.Linear(6240, 30), Double(), nn.Linear(30, 10).double())

    class Double(nn.Module):
        def forward(self, x):
            return x.double()

    found = estimate(mixed, IMAGES, LABELS, SGD, How("ddp", ranks=2))
    assert found.bytes["gradients"] == 4 * (6240 * 30 + 30) + 8 * (30 * 10 + 10)


@pytest.mark.parametrize(
    "make, how, message",
    [
        (lambda: nn.Identity(), {"bucket_mb": 0}, "bucket_mb has to be more than 0, not 0"),
        (lambda: nn.Identity(), {"ranks": 2.0}, "ranks has to be 1 to 1024"),
        (lambda: nn.Identity(), {"autocast": "bfloat16"}, "autocast has to be a type such as torch.bfloat16"),
        (lambda: THERE, {}, "make_model has to make the module"),
        (THERE, {}, "make_model: a class or a function"),
        (partial(nn.Embedding, 9, 3, sparse=True), {}, "a sparse tensor"),
    ],
)
def test_what_cannot_be_is_said(make, how, message):
    words = ((4, 6), torch.int64) if isinstance(make, partial) else IMAGES
    with pytest.raises(ValueError, match=message):
        estimate(make, words, None, SGD, How(**how))
