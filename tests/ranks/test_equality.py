"""If these fail, the modes no longer train the same network. In float64, free of rounding."""

import numpy as np
import pytest
import torch
from conftest import first, metrics, train
from torch.nn import functional as F

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.ranks.assemble import assemble
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.torchrun import grid_of

NO_DROPOUT = ["model.stages.2.drop6.p=0", "model.stages.3.drop7.p=0"]


def test_split_and_hybrid_have_the_losses_of_one_device_for_50_steps(on_ranks, tmp_path):
    """The default network on the bundled images, dropout on: every logged loss agrees to 1e-12."""
    settings = ["train.max_steps=50", "train.batch=16", "train.log_every=1", "train.precision=float64"]
    options = [part for setting in settings for part in ("--set", setting)]
    train(*options, "--out", tmp_path / "single")
    single = metrics(tmp_path / "single", "loss")
    assert len(set(single.values())) == 50
    for flag in ("--split-model", "--hybrid"):
        on_ranks(train, 2, flag, *options, "--out", tmp_path / flag)
        found = metrics(tmp_path / flag, "loss")
        assert list(single) == list(found) == list(range(1, 51))
        assert max(abs(single[step] - found[step]) for step in single) <= 1e-12


def one_step(config, grid, ranks=None):
    """Logits and gradients of this rank for its share of the first batch, averaged or summed as the mode does
    it."""
    images, _ = load_images(config.data, config.model)
    if ranks:
        model, replicated, _ = assemble(config, ranks)
    else:
        model = replicated = AlexNet(config.model, 0, memory=config.memory).double()
    prepare = Preparation(images, config, torch.device("cpu"))
    x, labels = next(TrainBatches(images, config, prepare, grid).epoch(1))
    model.seed_dropout(0, grid.replica, 0)
    logits = replicated(x)
    F.cross_entropy(logits, labels).backward()
    return logits.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def differences(file, overrides, mode):
    """On a rank: the largest difference from one device's logits, and of every gradient from one device's,
    in parts of the largest element."""
    config = load_config(file[0], overrides)
    expected = torch.load(file[1], mmap=True)
    with Ranks(grid_of(config.model.towers, mode)) as ranks:
        logits, gradients = one_step(config, ranks.grid, ranks)
        share = len(logits) * ranks.grid.replica
        logits_off = (logits - expected["logits"][share : share + len(logits)]).abs().max().item()
        off = {
            name: ((gradient - expected[name]).abs().max() / expected[name].abs().max()).item()
            for name, gradient in gradients.items()
        }
        return logits_off, off


ALEXNET = ["train.batch=4", "data.name=synthetic"]
FC = {"fc6", "fc7", "fc8"}


@pytest.mark.parametrize(
    "name, overrides, mode, ranks",
    [
        ("quick", NO_DROPOUT, "ddp", 2),
        ("quick", NO_DROPOUT, "grid", 4),
        ("alexnet", ALEXNET, "split", 2),
        ("alexnet", ALEXNET, "hybrid", 2),
        pytest.param("alexnet", [*ALEXNET, "model.towers=4"], "hybrid", 2, marks=pytest.mark.slow),
        pytest.param("alexnet", [*ALEXNET, "model.towers=4"], "hybrid", 4, marks=pytest.mark.slow),
    ],
)
def test_a_mode_has_the_gradients_of_one_device(on_ranks, tmp_path, name, overrides, mode, ranks):
    """quick.yaml with dropout off where replicas draw their own masks; alexnet.yaml at full size,
    dropout on."""
    overrides = [*overrides, "train.precision=float64"]
    config = load_config(f"configs/{name}.yaml", overrides)
    logits, gradients = one_step(config, Grid(towers=range(config.model.towers)))
    torch.save({"logits": logits, **gradients}, tmp_path / "expected.pt")
    found = on_ranks(
        differences, ranks, (f"configs/{name}.yaml", str(tmp_path / "expected.pt")), overrides, mode
    )
    for rank, (logits_off, off) in enumerate(found):
        assert logits_off < 1e-12 and max(off.values()) < 1e-12
        first, each = (0, config.model.towers) if mode == "ddp" else _own(rank, ranks, config, mode)
        own = [f"towers.{tower}." for tower in range(first, first + each)]
        expected = [
            key
            for key in gradients
            if key.startswith(tuple(own)) or mode == "hybrid" and key.split(".")[2] not in FC
        ]
        assert list(off) == expected


def _own(rank, ranks, config, mode):
    each = config.model.towers // (2 if mode == "grid" else ranks)
    return rank * each % config.model.towers, each


def logits_of_replica():
    with Ranks(grid_of(2, "grid")) as ranks:
        config = load_config("configs/quick.yaml", [*NO_DROPOUT, "train.precision=float64"])
        logits, _ = one_step(config, ranks.grid, ranks)
        return logits.sum().item()


def test_replicas_see_different_images_and_ranks_of_one_replica_the_same(on_ranks):
    logits = on_ranks(logits_of_replica, 4)
    assert logits[0] == logits[1] and logits[2] == logits[3] and logits[0] != logits[2]


def test_losses_are_means_over_the_global_batch_in_every_mode(on_ranks, tmp_path):
    """The loss and the errors that a run logs are those of one device, also where a rank sees a
    share of the batch, and that in passes."""
    settings = [*NO_DROPOUT, "train.max_steps=4", "train.log_every=2", "train.precision=float64"]
    options = [part for setting in settings for part in ("--set", setting)]
    train(*options, "--out", tmp_path / "single")
    train(*options, "--set", "train.accumulate=8", "--out", tmp_path / "single, 8 passes")
    on_ranks(train, 2, "--ddp", *options, "--out", tmp_path / "ddp")
    options += ["--set", "train.accumulate=2"]
    on_ranks(train, 2, "--split-model", *options, "--out", tmp_path / "split, 2 passes")
    on_ranks(train, 2, "--hybrid", *options, "--out", tmp_path / "hybrid, 2 passes")
    on_ranks(train, 4, "--ddp", "--split-model", *options, "--out", tmp_path / "grid, 2 passes")
    for key in ("loss", "error", "lr", "test_loss", "top1_error", "top5_error"):
        expected = metrics(tmp_path / "single", key)
        for mode in ("ddp", "single, 8 passes", "split, 2 passes", "hybrid, 2 passes", "grid, 2 passes"):
            found = metrics(tmp_path / mode, key)
            assert list(found) == list(expected)
            np.testing.assert_allclose(
                list(found.values()), list(expected.values()), rtol=1e-11, err_msg=f"{mode} {key}"
            )


@pytest.mark.parametrize("precision, bits", first(1, [("float16", 11), ("bfloat16", 8)]))
def test_narrow_types_agree_to_their_rounding(on_ranks, tmp_path, precision, bits):
    """Losses of one device and split stay close to float32's."""
    settings = ["train.max_steps=2", "train.batch=8", "train.log_every=1"]
    settings += ["data.name=synthetic"]  # which has few test images
    options = [part for setting in settings for part in ("--set", setting)]
    train(*options, "--out", tmp_path / "float32")
    options += ["--set", f"train.precision={precision}"]
    train(*options, "--out", tmp_path / "single")
    on_ranks(train, 2, "--split-model", *options, "--out", tmp_path / "split")
    expected = list(metrics(tmp_path / "float32", "loss").values())
    for mode in ("single", "split"):
        found = list(metrics(tmp_path / mode, "loss").values())
        np.testing.assert_allclose(found, expected, rtol=4 * 2.0**-bits)
        assert found != expected
