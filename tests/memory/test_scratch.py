"""If these fail, an operation of torch takes more within itself, or less, than scratch.py says. Held against
torch's allocator, operation by operation, in sizes that tell one tensor from another."""

import os
import subprocess
import sys

import pytest
import torch
from test_any_module import most_taken
from torch.utils._pytree import tree_leaves

from alexnet2gpu.memory.scratch import THREADS, scratch_of

aten = torch.ops.aten
LAST, FIRST = torch.channels_last, torch.contiguous_format
BESIDE = 40_000  # bytes of oneDNN's own, by thread and instructions


@pytest.fixture(autouse=True)
def a_thread():
    """As scratch.THREADS has it; with more, AVX-512 has a sum of gradients for each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(threads)


def taken(function, *args):
    """Bytes that torch's allocator gives at most, beyond what is returned."""
    function(*args)
    made = []
    most = most_taken(lambda: made.append(function(*args)))
    return most - sum(tensor.nbytes for tensor in tree_leaves(made) if isinstance(tensor, torch.Tensor))


def check(function, *args):
    assert abs(scratch_of(function, args, "cpu") - taken(function, *args)) < BESIDE


# maps, C', kernel, stride, pad, groups
CONVOLUTIONS = [(48, 64, 3, 1, 1, 1), (40, 72, 3, 2, 1, 1), (96, 256, 5, 1, 2, 2), (64, 64, 3, 2, 1, 64)]
CONVOLUTIONS += [(13, 29, 3, 1, 1, 1), (72, 72, 3, 1, 1, 1)]
CASES = [(*window, layout) for window in CONVOLUTIONS for layout in (LAST, FIRST)]
CASES += [(88, 88, 5, 1, 2, 88, FIRST)]  # with maps last, 64 weights more


@pytest.mark.parametrize("maps, out, kernel, stride, pad, groups, layout", CASES)
def test_a_convolution(maps, out, kernel, stride, pad, groups, layout):
    x = torch.randn(16, maps, 30, 27).contiguous(memory_format=layout)
    weight = torch.randn(out, maps // groups, kernel, kernel).contiguous(memory_format=layout)
    window = [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups
    check(aten.convolution.default, x, weight, None, *window)
    of_y = torch.randn_like(aten.convolution(x, weight, None, *window))
    check(aten.convolution_backward.default, of_y, x, weight, None, *window, [True, True, False])


FILES = [pytest.param([__file__], id="operations")]
FILES += [
    pytest.param(["tests/memory/test_memory.py", "tests/memory/test_any_module.py"], marks=pytest.mark.slow)
]


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the CPU has no AVX-512")
@pytest.mark.skipif(os.environ["ONEDNN_MAX_CPU_ISA"] == "DEFAULT", reason="this is it")
@pytest.mark.parametrize("files", FILES)
def test_the_same_with_all_instructions_of_this_cpu(files):
    """conftest.py forbids AVX-512, with which oneDNN has 16 maps together."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *files]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_convolution_in_other_types_writes_out_its_windows():
    x, weight = torch.randn(6, 4, 20, 17).double(), torch.randn(8, 4, 3, 3).double()
    check(aten.convolution.default, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)


def test_batch_normalisation_backward():
    of_y, x, gain, mean = (
        torch.randn(16, 40, 30, 27),
        torch.randn(16, 40, 30, 27),
        torch.ones(40),
        torch.zeros(40),
    )
    rest = mean, gain, mean, gain, True, 1e-5, [True, True, True]
    check(aten.native_batch_norm_backward.default, of_y, x, gain, *rest)


@pytest.mark.parametrize("transposed", [False, True])
def test_layer_normalisation_and_attention_backward(transposed):
    def draw(*shape):
        return (
            torch.randn(shape[1], shape[0], *shape[2:]).transpose(0, 1) if transposed else torch.randn(shape)
        )

    x, of_y, gain = draw(12, 50, 96), torch.randn(12, 50, 96), torch.ones(96)
    check(aten.native_layer_norm.default, x, [96], gain, gain, 1e-5)
    y, mean, deviation = aten.native_layer_norm(x, [96], gain, gain, 1e-5)
    rest = [96], mean, deviation, gain, gain, [True, True, True]
    check(aten.native_layer_norm_backward.default, of_y, x, *rest)
    q, k, v, of_y = (draw(12, 4, 50, 24) for _ in range(4))
    y, sums = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    check(
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default, of_y, q, k, v, y, sums, 0.0, False
    )
