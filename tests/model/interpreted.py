"""The kernels for GPUs against torch's operations, in Triton's interpreter on the CPU. test_kernels.py runs
it in a process of its own, since the interpreter is chosen when Triton is imported. Prints what failed."""

import json
import traceback
from unittest.mock import patch

import torch
from torch.nn import functional as F

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.model import conv, pool, update_kernel
from alexnet2gpu.model.norm import operations, triton_kernels

draw = torch.Generator().manual_seed(0)
triton_kernels.images_at_once = lambda elements, on_gpu: 2


def randn(*shape, dtype=torch.float32):
    x = torch.randn(*shape, generator=draw).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


def normalisation_is_its_formula():
    """With more elements than one program has and a rest, and with windows wider than the map; where a
    window beyond the first or the last map holds nothing but zeros, too. Gradients may lie otherwise."""
    rules = [(5, 0.3, 0.75, 2), (3, 0.2, 0.6, 1), (3, 1, 0.75, 0)]
    shapes = (1, 7, 5, 9), (1, 48, 5, 3), (3, 2, 2, 1), (0, 3, 4, 4), (1, 260, 1, 2)
    # to bfloat16 the interpreter cuts off, where a GPU rounds
    for number in range(8):
        rule, shape = NormRule(number % 2 == 0, *rules[number % 3]), shapes[number % 5]
        dtype, bound = [(torch.float32, 5e-7), (torch.bfloat16, 1e-2)][number // 2 % 2]
        x, of_y = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype)
        of_y = of_y if number % 4 else of_y.contiguous()
        wide = x.double(), of_y.double()
        for name, given, exact in ("normalise", (x,), wide[:1]), ("gradient", (x, of_y), wide):
            ours, theirs = (
                getattr(triton_kernels, name)(*given, rule),
                getattr(operations, name)(*exact, rule),
            )
            assert ours.dtype == dtype and ours.shape == x.shape and last(ours)
            if x.numel():
                error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
                assert error < bound, (name, dtype, rule, shape, error)


def normalisation_shows_what_is_not_a_number():
    """Forward in every window that holds it, and backward."""
    for across in (True, False):
        rule = NormRule(across, 3, 0.5, 0.75, 1)
        for bad in torch.nan, torch.inf:
            x = randn(1, 4, 5, 5)
            x[0, 0, 2, 2] = bad
            y, of_x = triton_kernels.normalise(x, rule), triton_kernels.gradient(x, torch.ones_like(x), rule)
            theirs = operations.normalise(x, rule), operations.gradient(x, torch.ones_like(x), rule)
            for ours, other in zip((y, of_x), theirs):
                assert ours[0, 0, 2, 2].isnan() and torch.equal(ours.isnan(), other.isnan())


def max_pooling_is_torchs():
    """To the bit, places too, of equal values (half of them are) and of NaN; windows that overlap, leave
    gaps, hang over the edge, are padded. Gradients are small whole numbers, whose sums are exact, and lie
    otherwise."""
    windows = [(3, 2, 0, False), (3, 2, 1, True), (2, 3, 1, False), (3, 1, 1, False), (2, 2, 0, True)]
    windows += [(3, 5, 1, True), (16, 9, 8, True)]
    shapes = (
        (1, 40, 11, 11),
        (1, 7, 13, 9),
        (1, 48, 5, 8),
        (3, 1, 6, 11),
        (0, 3, 8, 8),
        (2, 15, 5, 4),
        (1, 3, 19, 25),
    )
    for number in range(7):
        (kernel, stride, pad, ceil), shape = window = windows[number % 7], shapes[number % 7]
        dtype = torch.bfloat16 if number % 3 == 1 else torch.float32
        x = randn(*shape, dtype=dtype).relu_()
        if x.numel():
            x[0, 0, 1, 2], x[-1, -1, 2, 1] = torch.nan, -torch.inf
            x[0, 0, 2, 3] = torch.nan if number % 2 else 1
            x[-1, 0, -3:, -3:] = -torch.inf
        given = x.clone().requires_grad_()
        theirs, at = F.max_pool2d(given, kernel, stride, pad, ceil_mode=ceil, return_indices=True)
        y, places = pool.by_kernel(x, kernel, stride, pad, ceil)
        assert torch.equal(y.nan_to_num(7), theirs.nan_to_num(7)) and last(y) and last(places), window
        top = torch.arange(y.shape[2])[:, None] * stride - pad
        left = torch.arange(y.shape[3]) * stride - pad
        row, column = (places // kernel).long() + top, (places % kernel).long() + left
        assert torch.equal(row * x.shape[3] + column, at), window
        of_y = torch.randint(-9, 9, y.shape, generator=draw).to(dtype)
        of_x = pool.gradient_by_kernel(of_y, places, *x.shape[2:], kernel, stride, pad)
        theirs.backward(of_y.to(dtype))
        assert of_x.dtype == dtype and last(of_x) and torch.equal(of_x, given.grad), window


def max_pooling_asks_for_no_more_than_it_keeps():
    """Autograd finds the operation's backward pass, which needs one byte for each value of the output."""
    x, kept = randn(2, 5, 9, 9).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t.contiguous(), lambda t: t):
        y = pool.by_kernel(x, 3, 2, 0, False)[0]
    assert [(tensor.dtype, tensor.shape) for tensor in kept] == [(torch.uint8, y.shape)]
    y.square().sum().backward()
    other = x.detach().clone().requires_grad_()
    F.max_pool2d(other, 3, 2).square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)


def the_update_is_its_rule():
    """Twice, of more elements than a program has and a rest, at a rate of which 1 - (1 + rate) in float32 has
    three digits, too; and not at all once it is halted."""
    for rate in (0.01, 1e-5):
        w, v = torch.randn(1300, generator=draw), torch.zeros(1300)
        exact, velocity, halted = w.double(), v.double(), torch.zeros(())
        for _ in range(2):
            g = torch.randn(1300, generator=draw)
            update_kernel.update(w, g, v, halted, rate, 0.9, 0.0005)
            velocity = 0.9 * velocity - 0.0005 * rate * exact - rate * g.double()
            exact = exact + velocity
        assert ((v - velocity).abs().max() / velocity.abs().max()).item() < 5e-7
        assert ((w - exact).abs().max() / exact.abs().max()).item() < 1e-7
        before = w.clone(), v.clone()
        update_kernel.update(w, g, v, halted + 1, rate, 0.9, 0.0005)
        assert torch.equal(w, before[0]) and torch.equal(v, before[1])


# images, C', kernel, stride, pad, overhang: AlexNet's first layer on fewer pixels, padding, pixels that no
# window reads, a kernel smaller than the stride, no image; more elements than one program has, and fewer
CONVOLUTIONS = [
    ((2, 3, 28, 36), 5, 11, 4, 0, (3, 3)),
    ((2, 1, 17, 22), 4, 7, 2, 3, (0, 0)),
    ((1, 3, 16, 25), 2, 5, 3, 0, (1, 0)),
    ((3, 2, 11, 14), 3, 2, 5, 0, (0, 0)),
    ((1, 3, 13, 10), 2, 3, 2, 2, (0, 1)),
    ((0, 3, 12, 12), 2, 4, 4, 0, (0, 0)),
]


def blocks_are_the_image_cut_up():
    """To the bit, against torch's own, which have a block's values map by map. In bfloat16 too, and of an
    image that lies otherwise."""
    for number, (shape, _, kernel, stride, pad, overhang) in enumerate(CONVOLUTIONS[:-1]):
        x = randn(*shape, dtype=torch.bfloat16).float()  # which rounds to no other value
        given = x.contiguous() if number % 2 else x
        rows, columns = (
            (side + 2 * pad + more - kernel) // stride + -(-kernel // stride)
            for side, more in zip(shape[2:], overhang)
        )
        arguments = stride, pad, rows, columns
        below, right = stride * rows - shape[2] - pad, stride * columns - shape[3] - pad
        maps = F.pixel_unshuffle(F.pad(x, (pad, right, pad, below)), stride)
        maps = maps.unflatten(1, (shape[1], stride**2)).transpose(1, 2).flatten(1, 2)
        for dtype in torch.float32, torch.bfloat16:
            ours = conv.blocks(given, *arguments, dtype)
            assert ours.dtype == dtype and last(ours) and torch.equal(ours.float(), maps), (shape, dtype)
    torch.library.opcheck(
        conv.blocks, (given, *arguments, dtype), test_utils=("test_schema", "test_faketensor")
    )


def convolution_over_blocks_is_torchs():
    """Forward and all gradients; keeping nothing but the image and the weight, as they came. Of a gradient
    that lies otherwise too, the weight's has its maps last."""
    for shape, gives, kernel, stride, pad, (below, right) in CONVOLUTIONS:
        x, weight = randn(*shape, dtype=torch.float64), randn(gives, shape[1], kernel, kernel)
        given = x.requires_grad_(), weight.double().requires_grad_()
        theirs = F.conv2d(F.pad(x, (0, right, 0, below)), given[1], None, stride, pad)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            ours = conv.BlockConv.apply(*given, (below, right), stride, pad)
        assert [tensor.data_ptr() for tensor in kept] == [tensor.data_ptr() for tensor in given]
        close = {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(ours, theirs, **close)
        of_y = randn(*theirs.shape, dtype=torch.float64).contiguous()
        gradients = torch.autograd.grad(ours, given, of_y)
        assert last(gradients[1])
        torch.testing.assert_close(gradients, torch.autograd.grad(theirs, given, of_y), **close)


def convolution_over_blocks_is_in_autocasts_type():
    """So are the blocks already; gradients are in those of the image and the weight. Whole numbers, whose
    sums are exact."""
    x, weight = (
        torch.randint(-2, 3, shape, generator=draw).float().requires_grad_()
        for shape in ((2, 3, 9, 14), (2, 3, 5, 5))
    )
    theirs = F.conv2d(x, weight, None, 3)
    with torch.autocast("cpu", torch.bfloat16), patch.object(conv, "blocks", wraps=conv.blocks) as made:
        ours = conv.BlockConv.apply(x, weight, (0, 0), 3, 0)
    assert ours.dtype == torch.bfloat16 == made.call_args.args[-1]
    torch.testing.assert_close(ours, theirs.bfloat16(), rtol=0, atol=0)
    of_y = torch.randint(-2, 3, ours.shape, generator=draw)
    gradients = torch.autograd.grad(ours, (x, weight), of_y.bfloat16())
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    theirs = torch.autograd.grad(theirs, (x, weight), of_y.float())
    torch.testing.assert_close(gradients, theirs, rtol=0, atol=0)


def main():
    failed = {}
    for name, check in CHECKS.items():
        try:
            check()
        except Exception:
            failed[name] = traceback.format_exc()
    print(json.dumps(failed))


CHECKS = {
    check.__name__: check
    for check in (
        normalisation_is_its_formula,
        normalisation_shows_what_is_not_a_number,
        max_pooling_is_torchs,
        max_pooling_asks_for_no_more_than_it_keeps,
        the_update_is_its_rule,
        blocks_are_the_image_cut_up,
        convolution_over_blocks_is_torchs,
        convolution_over_blocks_is_in_autocasts_type,
    )
}

if __name__ == "__main__":
    main()
