"""If these fail, fully connected layers are wrong, or slower than they should be."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.model.layers import draw_weights
from alexnet2gpu.model.linear import Linear, in_one_piece, linear
from alexnet2gpu.ranks import overlap

by_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def both_ways(layer, x, g):
    """y, and the gradients of x, weight and bias."""
    x = x.detach().requires_grad_()
    y = layer(x)
    return y, *torch.autograd.grad(y, (x, layer.weight, layer.bias), g.to(y.dtype))


@pytest.fixture(autouse=True)
def none_is_small(monkeypatch):
    monkeypatch.setattr("alexnet2gpu.model.linear.SMALL", 0)


def layer_and_tensors(features=300, outputs=70):
    torch.manual_seed(0)
    layer = Linear(features, outputs)
    draw_weights(layer, kinds.Linear(out=outputs, init="xavier", bias=0.1), seed=0)
    return layer, torch.randn(32, features), torch.randn(32, outputs)


class Calls(TorchDispatchMode):
    """Of the operations that torch carries out: names, and the strides of tensors."""

    def __enter__(self):
        self.calls = []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        self.calls.append((str(function), [tensor.stride() for tensor in tensors]))
        return function(*args, **(kwargs or {}))


def test_float32_agrees_with_float64():
    layer, x, g = layer_and_tensors()
    found = both_ways(layer, x, g)
    torchs = torch.nn.Linear(300, 70).double()
    torchs.load_state_dict(layer.state_dict())
    for ours, theirs in zip(found, both_ways(torchs, x.double(), g)):
        assert ours.dtype == torch.float32 and ours.is_contiguous()
        error = (ours - theirs).abs().max() / theirs.abs().max()
        assert error < 2e-6


def test_part_of_a_weight_will_do():
    """Some of the features, whose rows lie apart in memory."""
    layer, x, _ = layer_and_tensors()
    halves = zip(x.chunk(2, dim=1), layer.weight.detach().chunk(2, dim=1))
    total = sum(linear(some, weight) for some, weight in halves) + layer.bias
    torch.testing.assert_close(total, layer(x))


def test_a_layer_may_lack_a_bias_or_be_frozen():
    _, x, _ = layer_and_tensors()
    layer = Linear(300, 70, bias=False)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(70, 300))
    layer.requires_grad_(False).weight.grad = None
    layer(x.requires_grad_()).sum().backward()
    assert layer.weight.grad is None and x.grad is not None


@by_onednn
def test_onednn_never_reads_rows_that_lie_apart():
    """It would take a thousand times as long: a part of a weight or of images, or a gradient that
    one number stands for, as of a sum. A part of a weight can be copied for it."""
    layer, x, _ = layer_and_tensors()
    some, part = x.chunk(2, dim=1)[0], layer.weight.detach().chunk(2, dim=1)[0]
    with Calls() as done:
        layer(x).sum().backward()
        linear(some, part)
        linear(some.contiguous(), part)
        linear(some.contiguous(), in_one_piece(part))
    products = [strides for name, strides in done.calls if "alexnet2gpu.linear" in name]
    assert products == [[(300, 1), (300, 1), (1,)], [(150, 1), (150, 1)]]


@by_onednn
def test_overlap_gives_every_product_to_onednn():
    """It applies a layer to parts of its weight."""
    layer, x, g = layer_and_tensors()
    part = layer.weight.detach().chunk(2, dim=1)[1]
    with Calls() as done:
        overlap._apply(x[:, 150:].contiguous(), part, None, None)
        overlap._of_input(g, None, part, None)
        overlap._of_weight(g, x, part, None)
    assert sum("alexnet2gpu.linear" in name for name, _ in done.calls) == 3


@by_onednn
def test_all_three_products_are_onednns():
    """On AMD's processors torch's own way takes more than twice as long."""
    layer, x, g = layer_and_tensors()
    with Calls() as done:
        both_ways(layer, x, g)
    names = [name for name, _ in done.calls]
    assert sum("alexnet2gpu.linear" in name for name in names) == 3
    assert not any("mm" in name for name in names)


def test_a_compiler_sees_torchs_own():
    """torch.compile ends with an error on weights that an operation of oneDNN reads."""
    layer, x, _ = layer_and_tensors()
    graphs = []
    torch.compile(layer, backend=lambda graph, _: graphs.append(graph.code) or graph.forward)(x)
    assert len(graphs) == 1 and "linear(" in graphs[0] and "pointwise" not in graphs[0]


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_other_precisions_are_torchs_own(precision):
    """To the bit, under autocast too."""
    layer, x, g = layer_and_tensors()
    torchs = torch.nn.Linear(300, 70)
    torchs.load_state_dict(layer.state_dict())
    if precision == torch.float64:
        layer, torchs, x = layer.double(), torchs.double(), x.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        pairs = zip(both_ways(layer, x, g), both_ways(torchs, x, g))
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
