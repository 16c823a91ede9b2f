"""If these fail, a GPU computes otherwise than the config says, or one that lacks a compiler ends a run."""

import pytest
import torch
from torch import nn

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model import device, precision
from alexnet2gpu.runs.train import arithmetic

GPU = torch.device("cuda")


def train_of(*settings):
    return load_config("configs/quick.yaml", settings).train


@pytest.fixture
def flags():
    """Torch's two, as they were."""
    found = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = found


@pytest.mark.parametrize("on", [True, False])
def test_tf32_is_for_convolutions_and_products_alike(flags, on):
    """Torch's own default is one of each."""
    precision.ready(nn.Linear(2, 3), train_of(f"train.tf32={str(on).lower()}"), torch.device("cpu"))
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (on, on)


@pytest.mark.parametrize(
    "settings, where, words",
    [
        ([], GPU, "float32, products in TF32"),
        (["train.tf32=false"], GPU, "float32"),
        (["train.precision=bfloat16"], GPU, "bfloat16"),
        (["train.precision=float64"], GPU, "float64"),
        ([], torch.device("cpu"), "float32"),
    ],
)
def test_a_run_says_its_arithmetic(settings, where, words):
    assert arithmetic(train_of(*settings), where) == words


def test_a_gpu_without_bfloat16_is_a_mistake_with_its_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(ValueError, match="bfloat16: Tesla V100 cannot .*: take float16 or float32"):
        precision.ready(nn.Linear(2, 3), train_of("train.precision=bfloat16"), GPU)


def test_without_triton_it_is_said_and_nothing_ends(monkeypatch):
    """As without a C compiler, which Triton needs to launch a kernel."""
    pytest.importorskip("triton")
    from alexnet2gpu.model import pool_kernels

    def no_compiler(*arguments):
        raise RuntimeError("Failed to find C compiler")

    zeros = torch.zeros(1, 1, 1, 1)
    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros)
    monkeypatch.setattr(pool_kernels, "largest", no_compiler)
    device._builds_kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match="without Triton's kernels, so slower: .*C compiler"):
            assert not device.has_triton()
    finally:
        device._builds_kernels.cache_clear()
