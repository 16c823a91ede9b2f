"""If these fail, numbers that are not finite are trained on or saved, or nobody learns where they began."""

import re

import pytest
import torch
from conftest import metrics, train

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.step import train_step
from alexnet2gpu.ranks.assemble import assemble
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.torchrun import grid_of
from alexnet2gpu.runs import nonfinite

SHORT = ["data.name=synthetic", "train.batch=128", "train.epochs=3", "train.log_every=3"]
OPTIONS = [part for change in SHORT for part in ("--set", change)]  # 3 epochs of 4 steps


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    """At its step, with the layer; the checkpoint before is there still and the run goes on from it
    with better rates."""
    rates = "optim.schedule=[{epoch: 1, weights: 0.01, biases: 0.02}, {epoch: 2, weights: 1e4}]"
    with pytest.raises(SystemExit) as exit_:
        train(*OPTIONS, "--set", rates, "--out", tmp_path)
    said = capsys.readouterr().err
    found = re.search(
        r"error: step (\d+): the loss is (nan|inf); what first is not finite is the output of "
        r"towers\.\d\.\w+: last good checkpoint: step 4: go on with --out ",
        said,
    )
    assert exit_.value.code == 1 and found and int(found[1]) in range(6, 9), said
    assert [place.name for place in tmp_path.glob("checkpoints/step-*")] == ["step-00000004"]
    train("--out", tmp_path, "--resume", "--set", rates.replace("1e4", "1e-3"))
    assert 12 in metrics(tmp_path, "top1_error")


@pytest.mark.parametrize("what", ["evaluation", "weights"])
def test_what_is_not_finite_is_not_saved(what, tmp_path, monkeypatch, capsys):
    """An update may spoil the weights though the loss before it was finite, and a checkpoint may be
    due before the next loss."""
    from alexnet2gpu.runs import loop

    step, steps = loop.train_step, 0

    def spoil(model, *rest):
        nonlocal steps
        steps += 1
        figures = step(model, *rest)
        if steps == 8:  # the second epoch's last
            with torch.no_grad():
                layer = model.towers["0"].fc8
                layer.bias[0] = float("nan") if what == "weights" else 3e38
                layer.weight[:] = float("nan") if what == "weights" else 3e38
        return figures

    monkeypatch.setattr(loop, "train_step", spoil)
    if what == "weights":
        monkeypatch.setattr(loop, "evaluate", lambda *args: [8, 8, 8, 8, 4, 4])
    with pytest.raises(SystemExit) as exit_:
        train(*OPTIONS, "--out", tmp_path)
    said = capsys.readouterr().err
    expected = {
        "evaluation": "after step 8: the test loss is nan: last good checkpoint: step 4",
        "weights": "after step 8: what first is not finite is the gradient of "
        "towers.0.fc8, a step earlier: last good checkpoint: step 4",
    }
    assert exit_.value.code == 1 and expected[what] in said, said
    assert [place.name for place in tmp_path.glob("checkpoints/step-*")] == ["step-00000004"]


SPOILT = {
    "a weight": "the gradient of towers.1.conv3, a step earlier",
    "an image": "the images",
    "a layer": "the output of towers.1.conv4",
}


def first_place(spoilt, mode):
    """In a split of two ranks, or on one device, with something in tower 1 that is not finite."""
    config = load_config("configs/quick.yaml")
    grid = grid_of(2, "split") if mode == "split" else Grid(towers=range(2))
    with Ranks(grid, 1) as ranks:
        model, _, optimizer = assemble(config, ranks)
        images = torch.ones(4, 1, 28, 28)
        if spoilt == "an image":
            images[2, 0, 3, 3] = float("inf")
        elif 1 in grid.towers:
            tower = model.towers["1"]
            name = {"a weight": ["conv1", "conv3"], "a layer": ["conv4"]}[spoilt]
            with torch.no_grad():
                for layer in map(tower.get_submodule, name):
                    layer.weight[0, 0, 0, 0] = float("nan") if spoilt == "a weight" else 3e38
                    layer.bias += 3e38 if spoilt == "a layer" else 0
        return nonfinite.first_not_finite(model, images, ranks, "float32")


@pytest.mark.parametrize("spoilt", SPOILT)
def test_the_first_layer_is_found_whoever_holds_it(spoilt, on_ranks):
    assert on_ranks(first_place, 2, spoilt, "split") == [SPOILT[spoilt]] * 2
    assert first_place(spoilt, "one device") == SPOILT[spoilt]


def test_weights_stay_as_they_were_before_a_loss_that_is_not_finite():
    """Also in the steps that come before anybody looks at the loss; and if it is another replica's
    loss, which is in the mean gradient."""
    config = load_config("configs/quick.yaml")
    with Ranks(Grid(towers=range(2))) as ranks:
        for bad in ("loss", "gradient"):
            model, _, optimizer = assemble(config, ranks)
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            images, labels = torch.randn(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64)
            train_step(model, optimizer, images, labels)
            before = [p.detach().clone() for p in model.parameters()]
            if bad == "gradient":
                last = model.towers["1"].fc8.bias
                hook = last.register_hook(lambda gradient: gradient * float("nan"))
            spoilt = images * float("nan") if bad == "loss" else images
            train_step(model, optimizer, spoilt, labels)
            if bad == "gradient":
                hook.remove()
            train_step(model, optimizer, images, labels)
            assert all(torch.equal(a, b) for a, b in zip(before, model.parameters())), bad
