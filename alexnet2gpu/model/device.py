"""The GPU, if there is one: how many there are to compute on, whether Triton's kernels can be built for it,
and in which precision its float32 computes. Whatever asks one of these questions asks it here.
"""

import functools
import warnings

import torch


def gpus() -> int:
    """How many GPUs this process can compute on. Where a driver is older than torch's CUDA, torch counts
    GPUs (`torch.cuda.device_count`) on which it cannot compute: they are none."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@functools.cache
def has_triton() -> bool:
    """Whether a kernel of Triton's can be built here, for which it needs a C compiler and Python's headers;
    if there is no GPU to try, whether Triton is installed. Says so where it cannot."""
    try:
        from alexnet2gpu.model import pool_kernels

        if gpus():
            x = torch.zeros(1, 1, 1, 1, device="cuda")
            pool_kernels.largest(x, x.clone(), x.to(torch.uint8), 1, 1, 0)
    except Exception as error:  # of many kinds, none of which should end a training
        warnings.warn(f"without Triton's kernels, so slower: {error!r}", stacklevel=2)
        return False
    return True


# As torch.compiler.assume_constant_result does it, which imports the compiler: three seconds in every rank.
has_triton._dynamo_marked_constant = True


def set_tf32(on: bool) -> None:
    """Whether float32 convolutions and matrix products on GPUs round their factors to TF32, 10 bits of
    mantissa instead of 23 (sums stay float32): both or neither. Torch alone would do it for convolutions."""
    torch.backends.cudnn.allow_tf32 = on
    torch.backends.cuda.matmul.allow_tf32 = on
