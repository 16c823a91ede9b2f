"""If these fail, a config no longer describes the network that it is named after."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import alexnet2gpu
from alexnet2gpu.config.layers import windows
from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import totals, trace, traffic
from alexnet2gpu.model.model import AlexNet


@pytest.mark.parametrize("name", ["forward", "training", "stages", "_modules"])
def test_no_layer_takes_a_name_that_a_tower_has(name):
    stages = f"[{{flat: flatten, {name}: {{type: linear, out: 4, init: 1}}}}]"
    with pytest.raises(ValueError, match=f"^model.stages.0.{name}: torch's modules have something of that"):
        AlexNet(network("quick", "model.input=[1, 1, 1]", f"model.stages={stages}"))


def network(name, *overrides):
    return load_config(f"configs/{name}.yaml", overrides).model


def shapes(name):
    """Layer -> shape of one tower."""
    return {row.name: row.gives for row in trace(network(name))}


def test_alexnet_has_the_parameters_of_2012():
    per_layer = {row.name: 2 * row.parameters for row in trace(network("alexnet")) if row.parameters}
    assert per_layer == {
        "conv1": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    }
    assert totals(network("alexnet")) == (60_965_224, 724_406_816)


def test_alexnet_has_the_shapes_of_2012():
    shape = shapes("alexnet")
    sides = {
        name: shape[name] for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    }
    assert sides == {
        "conv1": (48, 55, 55),
        "pool1": (48, 27, 27),
        "conv2": (128, 27, 27),
        "pool2": (128, 13, 13),
        "conv3": (192, 13, 13),
        "conv4": (192, 13, 13),
        "conv5": (128, 13, 13),
        "pool5": (128, 6, 6),
    }
    assert [shape[name] for name in ("fc6", "fc7", "fc8")] == [(2048,), (2048,), (500,)]


def test_alexnet_has_659272_neurons():
    """ORIGINAL count: outputs of the eight layers with weights, both towers."""
    assert (
        sum(2 * torch.Size(row.gives).numel() for row in trace(network("alexnet")) if row.parameters)
        == 659_272
    )


def test_textbook_gives_the_shapes_that_the_textbooks_print():
    shape = shapes("textbook")
    layers = (
        "conv1",
        "pool1",
        "conv2",
        "pool2",
        "conv3",
        "conv4",
        "conv5",
        "pool5",
        "flatten",
        "fc6",
        "fc7",
        "fc8",
    )
    assert [shape[name] for name in layers] == [
        (96, 54, 54),
        (96, 26, 26),
        (256, 26, 26),
        (256, 12, 12),
        (384, 12, 12),
        (384, 12, 12),
        (256, 12, 12),
        (256, 5, 5),
        (6400,),
        (4096,),
        (4096,),
        (10,),
    ]
    assert totals(network("textbook"))[0] == 46_764_746


def test_lenet_has_61706_parameters():
    assert totals(network("lenet")) == (61_706, 416_520)


@pytest.mark.parametrize("name", ["quick", "lenet", "textbook", "alexnet"])
def test_counts_and_shapes_are_those_of_the_module(name):
    """trace() computes on paper; the module that is built from it must agree, layer by layer and
    in all. (In float64, whose operations torch's counter all knows.)"""
    config, model = network(name), alexnet2gpu.load(f"configs/{name}.yaml").double().eval()
    seen = {}
    for layer, module in next(iter(model.towers.values())).named_children():
        module.register_forward_hook(
            lambda module, inputs, output, layer=layer: seen.update({layer: output.shape[1:]})
        )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = model(torch.zeros(1, *config.input, dtype=torch.float64))
    assert seen == {row.name: torch.Size(row.gives) for row in trace(config)}
    assert logits.shape == (1, config.towers * trace(config)[-1].gives[0])
    parameters, multiply_adds = totals(config)
    assert parameters == sum(parameter.numel() for parameter in model.parameters())
    assert 2 * multiply_adds == counter.get_total_flops()


def test_traffic_of_alexnet_is_the_closed_form():
    """Elements that each tower sends for an image: pool2, pool5, fc6 and fc7 outputs, and the
    logits, which cost nothing backward because every rank computes the loss."""
    elements = [128 * 13 * 13, 128 * 6 * 6, 2048, 2048]
    assert traffic(network("alexnet")) == [*((4 * n, 4 * n) for n in elements), (4 * 500, 0)]


def test_traffic_of_four_towers_goes_to_three_others():
    four = network("alexnet", "model.towers=4")
    assert traffic(four)[0].forward == 3 * 4 * 64 * 13 * 13


@pytest.mark.parametrize("size", range(3, 14))
@pytest.mark.parametrize(
    "kernel, stride, pad", [(2, 2, 0), (2, 2, 1), (3, 2, 0), (3, 2, 1), (3, 3, 1), (2, 1, 1)]
)
def test_windows_of_pooling_are_torchs(size, kernel, stride, pad):
    """Also with `ceil`, where torch leaves out a window that would start beyond the edge."""
    for ceil in (False, True):
        pooled = torch.nn.functional.max_pool2d(
            torch.zeros(1, 1, size, size), kernel, stride, pad, ceil_mode=ceil
        )
        assert windows(size, kernel, stride, pad, ceil) == pooled.shape[-1]
