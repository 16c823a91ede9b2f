"""The kernels for GPUs against torch's operations, in Triton's interpreter on the CPU. test_kernels.py runs
it in a process of its own, since the interpreter is chosen when Triton is imported. Prints what failed."""

import json
import traceback

import torch
from torch.nn import functional as F

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.model import pool, update_kernel
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
    )
}

if __name__ == "__main__":
    main()
