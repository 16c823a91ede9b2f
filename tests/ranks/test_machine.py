"""If these fail, a run that lacked memory ends as if a line of the program were wrong, or the reverse."""

import pytest
import torch

from alexnet2gpu.ranks.machine import out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(),
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
