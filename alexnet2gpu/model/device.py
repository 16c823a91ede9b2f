"""The GPU, if there is one: how many there are to compute on, whether a tensor is there, whether Triton's
kernels can be built for it, and in which precision its float32 computes. Whatever asks one of these questions
asks it here.
"""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

_played_on: ContextVar[str | None] = ContextVar("played_on", default=None)


@contextlib.contextmanager
def played_on(kind: str) -> Iterator[None]:
    """A context for steps on tensors without data (memory/play.py), which take the ways of a "cpu" with a C
    compiler or of a "cuda" with Triton, wherever they are played: nothing is built for them."""
    token = _played_on.set(kind)
    try:
        yield
    finally:
        _played_on.reset(token)


def played() -> bool:
    """Whether tensors are without data."""
    return _played_on.get() is not None


def kind_of(tensor: Tensor) -> str:
    """The kind of device that a tensor lies on, or is played to."""
    return _played_on.get() or tensor.device.type


def on_gpu(tensor: Tensor) -> bool:
    """Whether that is a GPU."""
    return kind_of(tensor) == "cuda"


def gpus() -> int:
    """How many GPUs this process can compute on. Where a driver is older than torch's CUDA, torch counts
    GPUs (`torch.cuda.device_count`) on which it cannot compute: they are none."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_triton() -> bool:
    """Whether a kernel of Triton's can be built here, for which it needs a C compiler and Python's headers;
    if there is no GPU to try, whether Triton is installed. Says so where it cannot."""
    return played() or _builds_kernels()


@functools.cache
def _builds_kernels():
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
