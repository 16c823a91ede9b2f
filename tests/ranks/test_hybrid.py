"""If these fail, the hybrid trains another network than one device does, with convolutions on every rank and
fully connected stages in towers; or the variable batch is not that of 2014. In float64, dropout on."""

import math

import pytest
import torch
import torch.distributed as dist
from conftest import ended
from torch.nn import functional as F

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import trace
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import set_rates
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks import summed
from alexnet2gpu.ranks.assemble import assemble
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.link import Link
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.torchrun import grid_at, grid_of

BATCH = 12
SMALL = [f"train.batch={BATCH}", "train.precision=float64"]
FOUR = ["model.towers=4", "model.stages.4.fc8.out=8"]


def config_of(overrides=()):
    return load_config("configs/quick.yaml", [*SMALL, *overrides])


def batch(config):
    """Images, all different, and labels."""
    draw = torch.Generator().manual_seed(1)
    images = 60 * torch.randn(BATCH, *config.model.input, generator=draw).double()
    return images, torch.randint(8, (BATCH,), generator=draw)


def of_one_device(config):
    """Loss and gradients."""
    model, (images, labels) = AlexNet(config.model).double(), batch(config)
    model.seed_dropout(0, 0, 0)
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in model.named_parameters()}


def of_a_rank(overrides, wrong=None):
    """The same of what a rank of the hybrid holds; bytes that it sent; those of gradients that were summed.
    `wrong` replaces an attribute of an owner by another."""
    config, sums = config_of(overrides), []
    with pytest.MonkeyPatch.context() as patch, Ranks(grid_of(config.model.towers, "hybrid")) as ranks:
        all_reduce = dist.all_reduce
        patch.setattr(dist, "all_reduce", lambda t, **how: sums.append(t.nbytes) or all_reduce(t, **how))
        if wrong:
            patch.setattr(*wrong)
        parts, (images, labels) = assemble(config, ranks), batch(config)
        parts.model.seed_dropout(0, 0, 0)
        loss = F.cross_entropy(parts.replicated(images.chunk(ranks.grid.parts)[ranks.grid.part]), labels)
        loss.backward()
        found = {name: weight.grad for name, weight in parts.model.named_parameters()}
        sent = sum(sum(link.sent.values()) for link in ranks.links)
        return loss.item(), found, sent, sum(sums)


def worst(found, expected, names=None):
    """The largest difference of these gradients, in parts of the largest element of each."""
    names = found if names is None else names
    return max(((found[n] - expected[n]).abs().max() / expected[n].abs().max()).item() for n in names)


@pytest.mark.parametrize("overrides, ranks", [([], 2), (FOUR, 2), (FOUR, 4), (["exchange.overlap=true"], 2)])
def test_the_hybrid_has_the_gradients_of_one_device_and_sends_the_closed_form(on_ranks, overrides, ranks):
    """Of all towers' convolutions and its own towers' fully connected layers. Bytes: MODES, that is, of every
    join after the convolutions what the split sends, and 2 (n - 1) / n of the convolutions' gradients."""
    config = config_of(overrides)
    towers, rows = config.model.towers, trace(config.model)
    loss, expected = of_one_device(config)
    gathered = [row for row in rows if row.name in ("flatten", "drop6", "drop7", "fc8")]
    *joins, logits = [towers * math.prod(row.gives) for row in gathered]
    activations = 8 * (ranks - 1) * BATCH * (2 * sum(joins) + logits) // ranks
    convolutions = 8 * towers * sum(row.parameters for row in rows if row.stage < 2)
    for rank, (ours, found, sent, summed_) in enumerate(on_ranks(of_a_rank, ranks, overrides)):
        own = [f"towers.{rank * towers // ranks + n}." for n in range(towers // ranks)]
        assert set(found) == {n for n in expected if "conv" in n or n.startswith(tuple(own))}
        assert ours == pytest.approx(loss, abs=1e-12) and worst(found, expected) < 1e-12
        assert (sent, summed_) == (activations, convolutions)


def averaged(self, parameter):
    dist.all_reduce(parameter.grad, group=self.group)
    parameter.grad /= dist.get_world_size(self.group)


def own_only(link, gradient):
    return gradient.chunk(link.size, dim=link.axis)[link.rank].contiguous()


def test_averaged_gradients_of_convolutions_are_caught(on_ranks):
    """As DDP does it: loss and fully connected layers are right, convolutions get half of their gradient."""
    loss, expected = of_one_device(config_of())
    for ours, found, *_ in on_ranks(of_a_rank, 2, [], (summed.Summed, "_sum", averaged)):
        convolutions = [name for name in found if "conv" in name]
        assert worst({name: 2 * found[name] for name in convolutions}, expected) < 1e-12
        assert worst(found, expected, set(found) - set(convolutions)) < 1e-12
        assert ours == pytest.approx(loss, abs=1e-12)


def test_gradients_that_are_not_summed_over_towers_are_caught(on_ranks):
    """Below every join then what the other ranks' towers ask for is missing; fc8, which comes last, is
    right."""
    _, expected = of_one_device(config_of())
    for _, found, *_ in on_ranks(of_a_rank, 2, [], (Link, "reduce_scatter", own_only)):
        for name in found:
            assert (worst(found, expected, [name]) < 1e-12) == ("fc8" in name), name


def weights_after(mode, updates, steps=3):
    """On a rank: its weights after some steps of launch/train.py's kind."""
    config = config_of([f"optim.fc_updates={updates}"])
    grid = grid_of(2, mode) if mode != "single" else Grid(towers=range(2))
    with Ranks(grid) as ranks:
        parts, (images, labels) = assemble(config, ranks), batch(config)
        set_rates(parts.optimizer, config.optim.schedule, 1)
        for step in range(steps):
            parts.model.seed_dropout(0, 0, step)
            own = images.chunk(grid.parts)[grid.part]
            train_step(parts.replicated, parts.optimizer, own, labels, how_of(config))
        return {name: weight.detach() for name, weight in parts.model.named_parameters()}


def emulated(updates, steps=3):
    """The variable batch by hand: for each part of the batch forward, backward and update above pool5, then
    backward and update below it."""
    config = config_of()
    model, (images, labels) = AlexNet(config.model).double(), batch(config)
    weights = dict(model.named_parameters())
    fc = {name: weight for name, weight in weights.items() if "fc" in name}
    below = {name: weight for name, weight in weights.items() if "conv" in name}
    velocity = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    def update(named, gradients):
        for (name, weight), gradient in zip(named.items(), gradients):
            rate, decay = (0.02, 0) if "bias" in name else (0.01, 0.0005)
            velocity[name] = 0.9 * velocity[name] - decay * rate * weight.detach() - rate * gradient
            weight.data += velocity[name]

    for step in range(steps):
        model.seed_dropout(0, 0, step)
        pool5, asked = model(images, slice(2)), []
        for k in range(updates):
            part = slice(k * BATCH // updates, (k + 1) * BATCH // updates)
            x = pool5.detach()[part].requires_grad_()
            loss = F.cross_entropy(model(x, slice(2, None)), labels[part])
            of_x, *of_weights = torch.autograd.grad(loss, [x, *fc.values()])
            update(fc, of_weights)
            asked.append(of_x * (part.stop - part.start) / BATCH)
        update(below, torch.autograd.grad(pool5, list(below.values()), torch.cat(asked)))
    return {name: weight.detach() for name, weight in weights.items()}


@pytest.mark.parametrize("updates", [1, 3])
def test_updates_of_fully_connected_stages_are_those_of_2014(on_ranks, updates):
    expected = emulated(updates)
    assert worst(weights_after("single", updates), expected) < 1e-12
    for mode in ("split", "hybrid"):
        for found in on_ranks(weights_after, 2, mode, updates):
            assert worst(found, expected) < 1e-12


def test_three_updates_are_not_one():
    assert worst(emulated(3), emulated(1)) > 1e-3


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (
            ["--hybrid"],
            "--hybrid on 1 process: 2 towers divide over 2: torchrun --standalone --nproc_per_node=2",
        ),
        (["--hybrid", "--ddp"], "--hybrid: is a mode of its own: leave --split-model and --ddp out"),
        (["--set", "optim.fc_updates=7"], "optim.fc_updates: should divide train.batch, 64"),
        (["--set", "optim.fc_updates=2", "--set", "train.precision=float16"], "not together with"),
    ],
)
def test_mistakes_of_the_hybrid_are_told(arguments, complaint):
    status, said = ended("train", *arguments)
    assert status == 2 and complaint in said


def mistake(*arguments):
    return ended("train", "--hybrid", *arguments)


def test_what_has_no_convolution_before_its_linear_layers_is_not_for_the_hybrid():
    """Its replicated part would have no weights."""
    first = "model.stages=[{pool1: {type: max_pool, kernel: 4, stride: 4}, flat: flatten}, {fc6: "
    pooled = [first + "{type: linear, out: 4, init: 0.1}}]"]
    network = load_config("configs/quick.yaml", pooled).model
    assert not network.mixed
    with pytest.raises(ValueError, match="no stage of convolutions"):
        grid_at("hybrid", 2, 0, 2, 0, 2).placement(network)
    with pytest.raises(ValueError, match="needs a stage of convolutions before dropout, and others"):
        load_config("configs/quick.yaml", [*pooled, "optim.fc_updates=2"])


def test_a_network_that_has_nothing_to_replicate_is_a_mistake(on_ranks, tmp_path):
    """A dropout in the first stage, whose masks would be drawn by every rank alike."""
    drop = "model.stages.0.drop1={type: dropout, p: 0.5, scaling: inverted}"
    for status, said in on_ranks(mistake, 2, "--set", drop, "--out", tmp_path / "run"):
        assert status == 2 and (not said or "no stage of convolutions before dropout" in said)
    for status, said in on_ranks(mistake, 2, "--set", "train.batch=63", "--out", tmp_path / "run"):
        assert status == 2 and (not said or "train.batch 63 does not divide by 2" in said)
