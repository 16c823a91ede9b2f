"""If these fail, float16 trains with another scale than torch's GradScaler would, or ranks leave out
different steps."""

import math

import pytest
import torch
from conftest import metrics, train
from torch import nn

from alexnet2gpu.model import loss_scale
from alexnet2gpu.model.loss_scale import ScaledSGD2012
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.torchrun import grid_of


def made(agree=lambda found: None):
    """A layer, the same each time, and its optimizer."""
    torch.manual_seed(3)
    layer = nn.Linear(5, 2)
    optimizer = ScaledSGD2012(layer.named_parameters(), 0.0, 0.0, agree)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    return layer, optimizer


def test_the_scale_and_the_steps_left_out_are_those_of_gradscaler(monkeypatch):
    """20 steps, of which three overflow; the scale grows after four without."""
    monkeypatch.setattr(loss_scale, "PATIENCE", 4)
    (ours, optimizer), (theirs, _) = made(), made()
    usual = torch.optim.SGD(theirs.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=loss_scale.START, growth_interval=4)
    scales = set()
    for step in range(20):
        x = torch.randn(7, 5)
        factor = math.inf if step in (2, 3, 12) else 1.0  # of one gradient
        for layer in (ours, theirs):
            layer.zero_grad()
        loss = ours(x).square().mean()
        optimizer.backward(loss)
        scaler.scale(theirs(x).square().mean()).backward()
        for layer in (ours, theirs):
            layer.weight.grad[1, 2] *= factor
        optimizer.halt_unless_finite(loss)
        optimizer.step()
        scaler.step(usual)
        scaler.update()
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias), step
        assert optimizer.loss_scale[0] == scaler.get_scale(), step
        scales.add(optimizer.loss_scale[0])
    assert len(scales) > 2


def test_a_loss_that_is_not_finite_ends_all_updates():
    """Where GradScaler would go on, and nobody would know."""
    layer, optimizer = made()
    before = layer.weight.clone()
    for factor in (math.nan, 1.0):
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 5)).square().mean() * factor
        optimizer.backward(loss)
        optimizer.halt_unless_finite(loss)
        optimizer.step()
        assert torch.equal(layer.weight, before)


def one_overflows(lost):
    """On a rank: whether its weights have changed in each of two steps, and its scale. In the first, rank 1's
    gradients are not finite, nor is its loss if it is `lost`."""
    with Ranks(grid_of(2, "split")) as ranks:
        layer, optimizer = made(ranks.largest)
        changed = []
        for step in (0, 1):
            before, bad = layer.weight.clone(), step == 0 and ranks.grid.rank == 1
            optimizer.zero_grad()
            loss = layer(torch.ones(1, 5)).square().mean() * (math.inf if bad and lost else 1)
            optimizer.backward(loss)
            layer.bias.grad *= math.inf if bad else 1
            optimizer.halt_unless_finite(loss)
            optimizer.step()
            changed.append(not torch.equal(layer.weight, before))
        return changed, optimizer.loss_scale[0]


@pytest.mark.parametrize("lost, changed", [(False, [False, True]), (True, [False, False])])
def test_all_ranks_leave_out_the_same_steps(on_ranks, lost, changed):
    answers = on_ranks(one_overflows, 2, lost)
    assert answers[0] == answers[1]
    assert answers[0][0] == changed and answers[0][1] <= loss_scale.START / 2


def test_a_resumed_run_has_the_scale_that_it_had(tmp_path, monkeypatch):
    """Two steps and two more, as four at once, while the scale grows."""
    monkeypatch.setattr(loss_scale, "PATIENCE", 3)
    options = ["train.precision=float16", "train.batch=8", "train.log_every=1", "data.name=synthetic"]
    options = [part for setting in options for part in ("--set", setting)]
    train(*options, "--set", "train.max_steps=4", "--out", tmp_path / "four")
    train(*options, "--set", "train.max_steps=2", "--out", tmp_path / "two")
    train("--set", "train.max_steps=4", "--out", tmp_path / "two", "--resume")
    scales = metrics(tmp_path / "four", "loss_scale")
    assert len(set(scales.values())) > 1
    for key in ("loss", "loss_scale"):
        assert metrics(tmp_path / "two", key) == metrics(tmp_path / "four", key)
