"""If these fail, a lever that should only change memory changes what the network learns."""

from dataclasses import replace

import pytest
import torch
from conftest import metrics, train
from torch.nn import functional as F

from alexnet2gpu.config.keys import Memory
from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory.predict import parts_of, random_batch
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid

ALL_OFF = Memory(norm_input_only=False, pool_places_only=False, image_unpadded=False, relu_in_place=False)


def gradients(file, levers, settings=()):
    """Of a step in float64, dropout on, weights and image the same each time."""
    config = load_config(file, settings)
    model = AlexNet(config.model, memory=levers).double()
    model.seed_dropout(0, 0, 0)
    draw = torch.Generator().manual_seed(1)
    images = 60 * torch.randn(2, *config.model.input, generator=draw).double()
    F.cross_entropy(model(images), torch.tensor([1, 2])).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    "levers",
    [
        Memory(),
        replace(ALL_OFF, norm_input_only=True),
        replace(ALL_OFF, pool_places_only=True),
        replace(ALL_OFF, image_unpadded=True),
        replace(ALL_OFF, relu_in_place=True),
        Memory(recompute=(1, 2, 3, 4, 5)),
    ],
)
def test_no_lever_changes_a_gradient(levers):
    """Against the same network with every lever off: torch's own layers and autograd. Stages that
    are computed again draw the same dropout masks."""
    small = ["model.stages.2.fc6.out=64", "model.stages.3.fc7.out=32"]
    expected = gradients("configs/alexnet.yaml", ALL_OFF, small)
    found = gradients("configs/alexnet.yaml", levers, small)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-9, atol=1e-12 * gradient.norm()), name


@pytest.mark.parametrize("parts", ["train.accumulate=2", "optim.fc_updates=2"])
def test_stages_computed_again_leave_the_next_pass_its_own_masks(parts):
    """Weights after a step in passes: as without, to the bit."""

    def weights(recompute):
        settings = [parts, "train.batch=4", "train.precision=float64", f"memory.recompute={recompute}"]
        config = load_config("configs/quick.yaml", settings)
        with Ranks(Grid(towers=range(2))) as ranks:
            made, batch = parts_of("single", config, ranks), random_batch(config, ranks)
            made.model.seed_dropout(0, 0, 0)
            train_step(made.model, made.optimizer, *batch, how_of(config))
            return made.model.state_dict()

    expected, found = weights([]), weights([1, 3])
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.slow
def test_halves_gathered_again_give_the_same_training(on_ranks, tmp_path):
    """Five steps on two ranks, to the bit."""
    steps = ["--split-model", "--set", "train.max_steps=5", "--set", "train.log_every=1"]
    on_ranks(train, 2, *steps, "--out", tmp_path / "kept")
    again = ["--set", "memory.regather=true", "--set", "memory.recompute=[2]"]
    on_ranks(train, 2, *steps, *again, "--out", tmp_path / "again")
    assert metrics(tmp_path / "kept", "loss") == metrics(tmp_path / "again", "loss")
