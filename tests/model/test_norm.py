"""If these fail, response normalisation is not its formula, its backward pass not its forward's, or
a fast way to compute it not the plain one."""

import itertools

import pytest
import torch
from torch import nn

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.model.norm import layer, native, operations
from alexnet2gpu.model.norm.layer import ResponseNorm

WAYS = [operations, native]
LRN = NormRule(True, 5, 1e-4 / 5, 0.75, 2)
MAP_NORM = NormRule(False, 5, 1e-3 / 25, 0.75, 1)
ODD = [
    NormRule(across, *rest)
    for across in (True, False)
    for rest in [(3, 0.3, 0.6, 1.5), (7, 0.1, 0.75, 1), (1, 0.2, 0.5, 2)]
]


def random(*shape, scale=1.0, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(*shape, dtype=torch.float64, generator=draw).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=WAYS, ids=["operations", "native"])
def way(request, monkeypatch):
    """Each way to compute it on the CPU, in the layer too."""
    if request.param is native and native.compiled(torch.float64) is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(layer, "has_kernels", lambda *of: request.param is native)
    return request.param


@pytest.mark.parametrize("channels", [1, 3, 8, 48])
def test_lrn_is_torchs(way, channels):
    """The config's alpha is divided by the size, as in nn.LocalResponseNorm."""
    x = random(2, channels, 5, 4, scale=100).requires_grad_()
    ours = ResponseNorm(LRN)(x)
    theirs = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    weight = random(*x.shape)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weight).sum(), x),
        torch.autograd.grad((theirs * weight).sum(), x),
        rtol=1e-11,
        atol=1e-12,
    )


@pytest.mark.parametrize("maps", [2, 16, 21])
def test_map_norm_is_its_formula_pixel_by_pixel(way, maps):
    """With as many maps as lanes in native.c, fewer, and a rest."""
    x = random(1, maps, 6, 7, scale=30)
    ours = ResponseNorm(MAP_NORM)(x)
    for c, i, j in itertools.product({0, 1, maps - 1}, range(6), range(7)):
        window = x[0, c, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
        expected = x[0, c, i, j] / (1 + 1e-3 / 25 * (window**2).sum()) ** 0.75
        assert ours[0, c, i, j].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("rule", ODD, ids=str)
def test_backward_is_the_derivative_of_forward(way, rule):
    assert torch.autograd.gradcheck(ResponseNorm(rule), random(2, 4, 3, 3).requires_grad_())


@pytest.mark.parametrize("rule", ODD, ids=str)
def test_with_all_kept_it_is_the_same(way, rule):
    """What torch derives of the formula, operation by operation."""
    norm, weight = ResponseNorm(rule), random(2, 18, 5, 6, seed=1)
    answers = []
    for norm.keep_all in (True, False):
        x = random(2, 18, 5, 6).requires_grad_()
        y = norm(x)
        answers.append((y, *torch.autograd.grad((y * weight).sum(), x)))
    torch.testing.assert_close(*answers, rtol=1e-11, atol=1e-13)


def test_it_keeps_only_its_input(way):
    """F.local_response_norm keeps seven tensors of this size, 46 % of all that this network
    saves."""
    saved, x = [], random(2, 8, 5, 5).requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t.detach(), lambda t: t)
    with hooks:
        ResponseNorm(LRN)(x)
    assert [tensor.data_ptr() for tensor in saved] == [x.data_ptr()]


@pytest.mark.parametrize("rule", [LRN, MAP_NORM], ids=str)
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 5e-7), (torch.bfloat16, 4e-3)])
def test_its_error_is_that_of_rounding_once(way, rule, dtype, bound):
    """Against float64, relative to the largest value: what bfloat16 holds is computed in
    float32."""
    x, of_y = random(3, 48, 9, 9, scale=60, dtype=dtype), random(3, 48, 9, 9, dtype=dtype, seed=1)
    ours = way.normalise(x, rule), way.gradient(x, of_y, rule)
    exact = x.double(), of_y.double()
    exact = operations.normalise(exact[0], rule), operations.gradient(*exact, rule)
    for mine, theirs in zip(ours, exact):
        assert mine.dtype == dtype and mine.is_contiguous(memory_format=torch.channels_last)
        assert ((mine - theirs).abs().max() / theirs.abs().max()).item() < bound


@pytest.mark.parametrize("rule", [LRN, MAP_NORM], ids=str)
def test_some_images_at_a_time_are_all_of_them(rule, monkeypatch):
    """To the bit, forward and backward: 5 images by twos, and all at once."""

    def answers(at_once):
        monkeypatch.setattr(operations, "images_at_once", lambda elements, on_gpu: at_once)
        x, of_y = random(5, 8, 6, 6, scale=100).float(), random(5, 8, 6, 6).float()
        return operations.normalise(x, rule), operations.gradient(x, of_y, rule)

    for ours, expected in zip(answers(2), answers(5)):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", list(native.TYPES), ids=str)
def test_what_is_not_a_number_stays_so(way, dtype):
    """A training that has gone wrong must show it, whatever the arithmetic."""
    x = random(1, 4, 2, 2, dtype=dtype)
    x[0, 0, 0, 0], x[0, 3, 1, 1] = torch.nan, torch.inf
    y = way.normalise(x, LRN)
    assert y.isnan()[0, 0, 0, 0] and y.isnan()[0, 3, 1, 1] and y.isfinite().sum() == 12


def test_gradients_may_lie_otherwise_than_x(way):
    """As after a layer that puts channels first."""
    x, of_y = random(2, 8, 5, 6, scale=60), random(2, 8, 5, 6, seed=1)
    channels_first = way.gradient(x, of_y.contiguous(), LRN)
    assert torch.equal(channels_first, way.gradient(x, of_y, LRN))


@pytest.fixture
def compile_again():
    native.compiled.cache_clear()
    yield
    native.compiled.cache_clear()


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "'", "cc -fno-such-option"])
def test_without_a_compiler_torch_does_it(compiler, monkeypatch, compile_again):
    """And says so; also with one that fails."""
    x = random(2, 4, 3, 3)
    monkeypatch.setenv("CC", compiler)
    with pytest.warns(UserWarning, match="normalisation without its C kernel, so slower: ."):
        assert torch.equal(ResponseNorm(LRN)(x), operations.normalise(x, LRN))
        assert not layer.has_kernels("cpu")


@pytest.mark.parametrize("rule", [LRN, MAP_NORM], ids=["lrn", "map_norm"])
def test_what_was_kept_may_come_back_in_another_layout(way, rule):
    """As from torch.autograd.graph.save_on_cpu: kernels rely on channels that lie last."""
    x, weight, found = random(2, 8, 5, 6, scale=30), random(2, 8, 5, 6, seed=1), []
    for pack in (torch.clone, lambda tensor: tensor.contiguous()):
        given = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = ResponseNorm(rule)(given)
        found.append(torch.autograd.grad((y * weight).sum(), given)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)
