"""If these fail, arithmetic on a GPU is not what the config says, or an error of memory is not known as
one."""

import pytest
import torch
from torch import nn

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model import device, step
from alexnet2gpu.model.device import out_of_memory

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
    step.ready(nn.Linear(2, 3), train_of(f"train.tf32={str(on).lower()}"), torch.device("cpu"))
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
    assert step.arithmetic(train_of(*settings), where) == words


def test_a_gpu_without_bfloat16_is_a_mistake_with_its_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(ValueError, match="train.precision bfloat16: Tesla V100 cannot .*: take float32"):
        step.ready(nn.Linear(2, 3), train_of("train.precision=bfloat16"), GPU)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be ...", 2),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        torch.distributed.DistBackendError("NCCL error: ... Cuda failure 2 'out of memory'"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] ... DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:24]}",
)
def test_memory_that_does_not_suffice_has_many_names(error):
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.distributed.DistBackendError("NCCL error: remote process exited"),
        ValueError("data.dir: out of memory is a folder that is not there"),
    ],
    ids=str,
)
def test_other_errors_are_none_of_it(error):
    assert not out_of_memory(error)


def test_without_triton_it_is_said_and_nothing_ends(monkeypatch):
    """As without a C compiler, which Triton needs to launch a kernel."""
    from alexnet2gpu.model import triton_probe

    def no_compiler():
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(triton_probe, "build", no_compiler)
    device.has_triton.cache_clear()
    try:
        with pytest.warns(UserWarning, match="without Triton's kernels, so slower: .*C compiler"):
            assert not device.has_triton()
    finally:
        device.has_triton.cache_clear()
