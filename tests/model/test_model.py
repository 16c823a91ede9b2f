"""If these fail, the towers no longer compute the two-GPU network of 2012."""

import copy

import pytest
import torch
from torch.nn import functional as F

import alexnet2gpu
from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.model import AlexNet


@pytest.fixture(scope="module")
def alexnet():
    return alexnet2gpu.load("configs/alexnet.yaml").double().eval()


def photograph(count=2):
    """Something with the scale of an image less its mean."""
    return 60 * torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0)).double()


def written_out(weights, x, lrn_over_all_maps=False):
    """The network of 2012, layer by layer, in plain torch calls; both towers at once where that is
    simpler."""

    def layer(name, tower, function, x, **options):
        return function(
            x, weights[f"towers.{tower}.{name}.weight"], weights[f"towers.{tower}.{name}.bias"], **options
        )

    def lrn(halves):
        if lrn_over_all_maps:
            return F.local_response_norm(torch.cat(halves, 1), 5, 1e-4, 0.75, 2).chunk(2, 1)
        return [F.local_response_norm(half, 5, 1e-4, 0.75, 2) for half in halves]

    def map_norm(x):
        return (
            x / (1 + 1e-3 * F.avg_pool2d(x**2, 5, 1, 2)) ** 0.75
        )  # avg_pool2d divides by 25, also at the edge

    halves = [layer("conv1", t, F.conv2d, F.pad(x, (0, 3, 0, 3)), stride=4) for t in (0, 1)]
    halves = [F.relu(F.max_pool2d(half, 3, 2)) for half in lrn(halves)]
    halves = lrn([F.relu(layer("conv2", t, F.conv2d, half, padding=2)) for t, half in enumerate(halves)])
    both = torch.cat([F.max_pool2d(map_norm(half), 3, 2) for half in halves], 1)
    halves = [F.relu(layer("conv3", t, F.conv2d, both, padding=1)) for t in (0, 1)]
    halves = [F.relu(layer("conv4", t, F.conv2d, half, padding=1)) for t, half in enumerate(halves)]
    halves = [
        F.relu(F.max_pool2d(layer("conv5", t, F.conv2d, half, padding=1), 3, 2))
        for t, half in enumerate(halves)
    ]
    both = torch.cat([half.flatten(1) for half in halves], 1)
    for name in ("fc6", "fc7"):
        both = 0.5 * torch.cat([F.relu(layer(name, t, F.linear, both)) for t in (0, 1)], 1)
    return torch.cat([layer("fc8", t, F.linear, both) for t in (0, 1)], 1)


@torch.no_grad()
def test_alexnet_is_the_network_written_out(alexnet):
    x = photograph()
    torch.testing.assert_close(alexnet(x), written_out(alexnet.state_dict(), x), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_norm_across_both_towers_is_another_network(alexnet):
    """LRN over all 96 and 256 maps, as in single-column ports: differs at the seams, and so in the
    logits."""
    weights, x = alexnet.state_dict(), photograph()
    other = written_out(weights, x, lrn_over_all_maps=True)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(alexnet(x), other, rtol=1e-12, atol=1e-12)
    assert (alexnet(x) - other).abs().max() > 1e-6


def test_a_tower_has_the_same_weights_wherever_it_is_built():
    network = load_config("configs/quick.yaml").model
    both, second = (
        AlexNet(network, seed=3).state_dict(),
        AlexNet(network, seed=3, placement=[[1]] * 5).state_dict(),
    )
    assert second and all(name.startswith("towers.1.") for name in second)
    assert all(torch.equal(both[name], weight) for name, weight in second.items())


def test_towers_and_layers_and_seeds_differ():
    network = load_config("configs/quick.yaml").model
    weights = AlexNet(network, seed=3).state_dict()
    assert not torch.equal(weights["towers.0.conv1.weight"], weights["towers.1.conv1.weight"])
    assert not torch.equal(
        weights["towers.0.conv1.weight"], AlexNet(network, seed=4).state_dict()["towers.0.conv1.weight"]
    )


def test_weights_are_drawn_as_the_config_says(alexnet):
    for name, std, bias in [
        ("conv1", 0.01, 0),
        ("conv2", 0.01, 1),
        ("conv3", 0.03, 0),
        ("conv4", 0.03, 1),
        ("conv5", 0.03, 1),
        ("fc6", 0.01, 1),
        ("fc7", 0.01, 1),
        ("fc8", 0.01, 0),
    ]:
        layer = alexnet.get_submodule(f"towers.1.{name}")
        assert layer.weight.std().item() == pytest.approx(std, rel=0.03), name
        assert layer.bias.unique().tolist() == [bias], name


def test_xavier_has_the_variance_of_glorot_and_bengio():
    layer = alexnet2gpu.load("configs/lenet.yaml").get_submodule("towers.0.fc3")
    assert layer.weight.var().item() == pytest.approx(2 / (400 + 120), rel=0.03)


def test_dropout_masks_follow_seed_tower_replica_and_step():
    """The mask of a step is the same whatever came before it: what makes a resume exact without
    saving state."""
    model, x = alexnet2gpu.load("configs/quick.yaml"), torch.randn(4, 1, 28, 28)

    def logits(*key):
        model.seed_dropout(*key)
        return model(x)

    first = logits(0, 0, 5)
    assert not any(torch.equal(first, logits(*other)) for other in [(1, 0, 5), (0, 1, 5), (0, 0, 6)])
    assert torch.equal(first, logits(0, 0, 5))


def test_a_tower_keeps_its_generator():
    """A CUDA graph draws from the one that was there when it was made, whatever its seed."""
    model = alexnet2gpu.load("configs/quick.yaml")
    model.seed_dropout(0, 0, 0)
    before = [tower.generator for tower in model.towers.values()]
    model.seed_dropout(0, 0, 1)
    for tower, generator in zip(model.towers.values(), before):
        assert tower.generator is generator
        assert tower.drop6.generator is generator and tower.drop7.generator is generator


def test_it_is_an_ordinary_module():
    """copy.deepcopy, a state dict round trip and torch's global seed work as for any other."""
    model, x = alexnet2gpu.load("configs/quick.yaml"), torch.randn(4, 1, 28, 28)
    torch.manual_seed(0)
    first = model(x)
    torch.manual_seed(0)
    assert torch.equal(first, copy.deepcopy(model)(x))
    other = AlexNet(load_config("configs/quick.yaml").model, seed=9)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))


def test_the_number_of_towers_is_free():
    """One line of the config makes four towers of the same widths; eight outputs, since ten do not
    divide by four."""
    four = alexnet2gpu.load("configs/quick.yaml", overrides=["model.towers=4", "model.stages.4.fc8.out=8"])
    assert four(torch.randn(2, 1, 28, 28)).shape == (2, 8)
    assert four.get_submodule("towers.3.conv2").weight.shape == (16, 4, 5, 5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_lie_with_channels_last_however_images_come(channels, layout):
    """In other layouts pooling is several times slower, and normalisation has no kernel."""
    network = load_config("configs/quick.yaml", [f"model.input=[{channels}, 28, 28]"]).model
    model, maps = AlexNet(network), []
    for layer in model.towers["0"].children():
        layer.register_forward_hook(lambda layer, x, y: maps.append(y))
    model(torch.randn(2, channels, 28, 28).contiguous(memory_format=layout))
    maps = [y for y in maps if y.dim() == 4]
    assert len(maps) > 10
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in maps)


def test_maps_lie_with_channels_last_where_each_tower_has_one():
    """Of a single map torch cannot tell."""
    model = AlexNet(load_config("configs/quick.yaml").model)
    model.run = lambda towers, stage, x: [torch.zeros(2, 1, 4, 5), torch.ones(2, 1, 4, 5)]
    both = model._side_by_side(0, None)
    assert both.stride() == (40, 1, 10, 2) and torch.equal(both[0, :, 0, 0], torch.tensor([0.0, 1.0]))
