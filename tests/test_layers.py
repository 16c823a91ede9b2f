"""If these fail, a layer is not its formula, or its backward pass not its forward's."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alexnet2gpu import norm
from alexnet2gpu.layers import Dropout, OverhangConv2d
from alexnet2gpu.norm import ResponseNorm, sum_over_maps, sum_over_pixels


def random(*shape, scale=1.0):
    return scale * torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("channels", [1, 3, 8, 48])
def test_lrn_is_torchs(channels):
    """The config's alpha is divided by the size, as in nn.LocalResponseNorm."""
    x = random(2, channels, 5, 4, scale=100).requires_grad_()
    ours = ResponseNorm(sum_over_maps, 5, 1e-4 / 5, 0.75, 2)(x)
    theirs = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    weight = random(*x.shape)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weight).sum(), x),
        torch.autograd.grad((theirs * weight).sum(), x),
        rtol=1e-11,
        atol=1e-12,
    )


def test_map_norm_is_its_formula_pixel_by_pixel():
    x = random(1, 2, 6, 7, scale=30)
    ours = ResponseNorm(sum_over_pixels, 5, 1e-3 / 25, 0.75, 1)(x)
    for c, i, j in itertools.product(range(2), range(6), range(7)):
        window = x[0, c, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
        expected = x[0, c, i, j] / (1 + 1e-3 / 25 * (window**2).sum()) ** 0.75
        assert ours[0, c, i, j].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("window_sum", [sum_over_maps, sum_over_pixels])
@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_response_norm_backward_is_the_derivative_of_forward(window_sum, beta):
    layer = ResponseNorm(window_sum, 3, 0.3, beta, 1.5)
    assert torch.autograd.gradcheck(layer, random(2, 4, 3, 3).requires_grad_())


def test_response_norm_keeps_only_its_input():
    """F.local_response_norm keeps seven tensors of this size, 46 % of all that this network
    saves."""
    saved = []
    x = random(2, 8, 5, 5).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t.detach(), lambda t: t
    ):
        ResponseNorm(sum_over_maps, 5, 1e-4, 0.75, 2)(x)
    assert [tensor.data_ptr() for tensor in saved] == [x.data_ptr()]


@pytest.mark.parametrize("window_sum", [sum_over_maps, sum_over_pixels])
def test_response_norm_of_some_images_at_a_time_is_that_of_all(window_sum, monkeypatch):
    """To the bit, forward and backward: 5 images by twos, and all at once."""

    def answers(at_once):
        monkeypatch.setattr(norm, "images_at_once", lambda elements, on_gpu: at_once)
        x, weight = random(5, 8, 6, 6, scale=100).float().requires_grad_(), random(5, 8, 6, 6)
        y = ResponseNorm(window_sum, 5, 1e-4, 0.75, 2)(x)
        return y, *torch.autograd.grad((y * weight).sum(), x)

    for ours, expected in zip(answers(2), answers(5)):
        assert torch.equal(ours, expected)


def test_response_norm_computes_bfloat16_in_float32():
    x = random(2, 8, 5, 5, scale=50).to(torch.bfloat16)
    norm = ResponseNorm(sum_over_maps, 5, 1e-4 / 5, 0.75, 2)
    assert torch.equal(norm(x), norm(x.float()).to(torch.bfloat16))


def test_overhang_reads_zeros_beyond_the_edge():
    """Window by window, with nothing where the image ends: 224 pixels, kernel 11, stride 4 give 55
    places, not 54."""
    conv = OverhangConv2d(1, 1, 11, 4).double()
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
