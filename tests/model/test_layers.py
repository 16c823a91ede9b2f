"""If these fail, a layer is not its formula, or its backward pass not its forward's."""

import pytest
import torch
from torch.nn import functional as F

from alexnet2gpu.config import layers as kinds
from alexnet2gpu.model.conv import Conv2d
from alexnet2gpu.model.layers import Dropout, draw_weights
from alexnet2gpu.model.pool import MaxPool2d


def random(*shape, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_overhang_reads_zeros_beyond_the_edge():
    """Window by window, with nothing where the image ends: 224 pixels, kernel 11, stride 4 give 55
    places, not 54."""
    conv = Conv2d(1, 1, 11, 4).double()
    draw_weights(conv, kinds.Conv(out=1, kernel=11, init=0.1, bias=0.5), seed=0)
    conv.overhang = 3, 3
    x = random(1, 1, 224, 224)
    out = conv(x)
    assert out.shape == (1, 1, 55, 55)
    for i, j in [(0, 0), (30, 54), (54, 54)]:
        patch = x[0, 0, 4 * i : 4 * i + 11, 4 * j : 4 * j + 11]
        height, width = patch.shape
        expected = (patch * conv.weight[0, 0, :height, :width]).sum() + conv.bias[0]
        assert out[0, 0, i, j].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(
    "scaling, training_scale, testing_scale", [("2012", 1, 0.75), ("inverted", 1 / 0.75, 1)]
)
def test_dropout_scales_where_its_name_says(scaling, training_scale, testing_scale):
    dropout, x = Dropout(0.25, scaling), torch.ones(100, 100)
    out = dropout(x)
    assert set(out.unique().tolist()) == {0, torch.tensor(training_scale).float().item()}
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(dropout.eval()(x), x * testing_scale)


def test_inverted_dropout_in_testing_is_torchs():
    x = random(4, 6)
    assert torch.equal(Dropout(0.5, "inverted").eval()(x), F.dropout(x, 0.5, training=False))


def test_dropout_repeats_with_its_generator():
    dropout, x = Dropout(0.5, "2012"), torch.ones(50)
    masks = []
    for seed in (1, 1, 2):
        dropout.generator = torch.Generator().manual_seed(seed)
        masks.append(dropout(x))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("height, width", [(7, 12), (400, 90), (90, 400)])
@pytest.mark.parametrize("ceil", [False, True])
def test_max_pooling_is_torchs(height, width, ceil):
    """Of maps that are not square; of over 32,768 pixels, whose places take 4 bytes."""
    x, found = random(2, 3, height, width), []
    for kind in (MaxPool2d, torch.nn.MaxPool2d):
        given = x.clone().requires_grad_()
        y = kind(3, 2, ceil_mode=ceil)(given)
        (y * random(*y.shape)).sum().backward()
        found.append((y.detach(), given.grad))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found))
