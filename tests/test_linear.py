"""If these fail, fully connected layers are wrong, or slower than they should be."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet2gpu.linear import Linear, linear


def both_ways(layer, x, g):
    """y, and the gradients of x, weight and bias."""
    x = x.detach().requires_grad_()
    y = layer(x)
    return y, *torch.autograd.grad(y, (x, layer.weight, layer.bias), g.to(y.dtype))


def layer_and_tensors(features=300, outputs=70):
    torch.manual_seed(0)
    return Linear(features, outputs), torch.randn(32, features), torch.randn(32, outputs)


class Names(TorchDispatchMode):
    """Of the operations that torch carries out."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
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
    """As overlap.py has it: some of the features, whose rows lie apart in memory."""
    layer, x, _ = layer_and_tensors()
    halves = zip(x.chunk(2, dim=1), layer.weight.detach().chunk(2, dim=1))
    total = sum(linear(some, weight) for some, weight in halves) + layer.bias
    torch.testing.assert_close(total, layer(x))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_all_three_products_are_onednns():
    """On AMD's processors torch's own way takes more than twice as long."""
    layer, x, g = layer_and_tensors()
    with Names() as done:
        both_ways(layer, x, g)
    assert sum("_linear_pointwise" in name for name in done.names) == 3
    assert not any("mm" in name for name in done.names)


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
