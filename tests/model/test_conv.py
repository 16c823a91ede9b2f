"""If these fail, a convolution on a GPU takes another way than it should, keeps more than it should, or adds
its bias otherwise than torch. interpreted.py has the blocks themselves."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from alexnet2gpu.model import conv


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("lies", ["channels last", "channels first", "all in one place"])
def test_adding_the_bias_is_autograds(dtype, lies):
    """The sum over (B, H, W), of gradients in any layout; the bias, in its own type, has that type's. Whole
    numbers, whose sums are exact."""
    draw = torch.Generator().manual_seed(0)
    y, of_y = torch.randint(-3, 4, (2, 2, 3, 4, 5), generator=draw).to(dtype)
    bias = torch.tensor([1.5, -2.0, 0.25], dtype=torch.promote_types(dtype, torch.float32))
    of_y = {
        "channels last": of_y.contiguous(memory_format=torch.channels_last),
        "channels first": of_y,
        "all in one place": of_y.new_ones(()).expand(2, 3, 4, 5),
    }[lies]
    found = []
    for add in (conv.AddBias.apply, lambda y, bias: y + bias.to(dtype)[:, None, None]):
        given = y.clone().requires_grad_(), bias.clone().requires_grad_()
        result = add(given[0].clone(), given[1])
        found.append((result, *torch.autograd.grad(result, given, of_y)))
    for ours, theirs in zip(*found):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_adding_the_bias_keeps_nothing_and_takes_no_memory():
    y, kept = torch.zeros(2, 3, 4, 5, requires_grad=True).clone(), []
    place = y.data_ptr()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        assert conv.AddBias.apply(y, torch.ones(3, requires_grad=True)).data_ptr() == place
    assert not kept


# maps, C', kernel, stride, pad; overhang; whether in blocks
WINDOWS = {
    "conv1": ((3, 96, 11, 4), (3, 3), True),
    "without overhang": ((3, 8, 7, 2, 3), (0, 0), True),
    "as many maps as can be": ((16, 8, 5, 2), (0, 0), True),
    "more maps": ((17, 8, 5, 2), (0, 0), False),
    "more maps, overhanging": ((17, 8, 4, 3), (2, 0), False),
    "no stride": ((3, 8, 5, 1, 2), (0, 0), False),
}


@pytest.fixture
def on_gpu(monkeypatch):
    """Runs a convolution on tensors that say they are on a GPU that has Triton, and looks that it keeps its
    input and its weight, nothing else. -> whether blocks were made, whether the bias was added by AddBias"""
    made, cut, kept = [], conv.blocks, []
    monkeypatch.setattr(conv, "has_triton", lambda: True)
    monkeypatch.setattr(conv, "blocks", lambda *arguments: made.append(arguments) or cut(*arguments))

    def run(window, overhang, **attributes):
        with FakeTensorMode(), torch.device("cuda"):
            layer = conv.Conv2d(*window)
            for name, value in {"overhang": overhang, **attributes}.items():
                setattr(layer, name, value)
            x = torch.empty(2, window[0], 64, 52, memory_format=torch.channels_last)
            with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
                y = layer(x)
            padded = F.pad(x, (0, overhang[1], 0, overhang[0]))
            assert y.shape == F.conv2d(padded, layer.weight, None, layer.stride, layer.padding).shape
        assert len(kept) == 2 and any(tensor is layer.weight for tensor in kept)
        assert layer.keep_padded or any(tensor is x for tensor in kept)
        return bool(made), "AddBias" in y.grad_fn.name()

    return run


@pytest.mark.parametrize("case", WINDOWS)
def test_strided_convolutions_of_few_maps_are_over_blocks(case, on_gpu):
    window, overhang, in_blocks = WINDOWS[case]
    assert on_gpu(window, overhang) == (in_blocks, True)


def test_a_padded_copy_is_kept_where_a_config_asks_for_it(on_gpu):
    assert on_gpu(*WINDOWS["conv1"][:2], keep_padded=True) == (False, True)


def test_without_triton_blocks_are_not_made(on_gpu, monkeypatch):
    monkeypatch.setattr(conv, "has_triton", lambda: False)
    assert on_gpu(*WINDOWS["conv1"][:2]) == (False, True)


@pytest.mark.parametrize("tool", ["alexnet2gpu.model.conv.plain", "torch.compiler.is_compiling"])
def test_other_tools_get_torchs_own_operations(tool, on_gpu, monkeypatch):
    monkeypatch.setattr(tool, lambda: True)
    assert on_gpu(*WINDOWS["without overhang"][:2]) == (False, False)


@pytest.mark.parametrize("overhang", [(0, 0), (1, 2)])
def test_a_kernel_of_one_pixel_reads_every_third_itself(overhang, monkeypatch):
    """As oneDNN does it, with 3 maps that lie last, it writes beyond its memory (valgrind shows it)."""
    layer, convolve, strides = conv.Conv2d(3, 5, 1, 3).double(), F.conv2d, []
    torch.nn.init.normal_(layer.weight)
    layer.overhang = below, right = overhang
    x = torch.randn(2, 3, 13, 17, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    expected = convolve(F.pad(x, (0, right, 0, below)), layer.weight, layer.bias, 3)
    monkeypatch.setattr(F, "conv2d", lambda *args: strides.append(args[3:]) or convolve(*args))
    assert torch.equal(layer(x), expected) and strides == [()]
