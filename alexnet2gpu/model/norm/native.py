"""Response normalisation on the CPU in one pass over memory: native.c, compiled when needed.

With torch's operations every step of the formula is a pass of its own, over a tensor that leaves the cache
nearest to the core. Compiling them (torch.compile) gains nothing where channels lie last in memory
(docs/speed.md). This needs a C compiler that knows OpenMP, as gcc does, and takes it a third of a second;
where there is none, operations.py does the work.

Each process compiles for itself, into a directory that only it can write and that is gone at once: nothing
that another could have put there is ever loaded.
"""

import ctypes
import functools
import os
import shlex
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from alexnet2gpu.config.layers import NormRule

SOURCE = Path(__file__).with_name("native.c")
TYPES = {torch.float32: "-DREAL=float", torch.float64: "-DREAL=double", torch.bfloat16: "-DBFLOAT16"}
# roots without errno can be computed 16 at a time; everything else is as the standard has it
OPTIONS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]


class _Norm(ctypes.Structure):
    """As in native.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "maps")),
        *((name, ctypes.c_int64) for name in ("across", "size")),
        *((name, ctypes.c_double) for name in ("alpha", "beta", "k")),
    ]


@functools.cache
def compiled(dtype: torch.dtype):
    """The function `normalise` of native.c for tensors of `dtype`; None, after a warning, if it cannot be
    had."""
    try:
        compiler = shlex.split(os.environ.get("CC") or "cc")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            library = Path(folder, "norm.so")
            command = [*compiler, *OPTIONS, TYPES[dtype], SOURCE, "-o", library, "-lm"]
            # in a session of its own: Ctrl-C, which stops the run after its step, would kill the compiler
            options = {"capture_output": True, "text": True, "timeout": 60, "start_new_session": True}
            subprocess.run(command, check=True, **options)
            return ctypes.CDLL(str(library)).normalise
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        warnings.warn(f"normalisation without its C kernel, so slower: {said[-1]}", stacklevel=2)
        return None


def normalise(x: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W) -> y, the same shape, type and layout."""
    return _call(rule, x, None)


def gradient(x: Tensor, of_y: Tensor, rule: NormRule) -> Tensor:
    """(B, C, H, W), and the gradient of y -> that of x, as x is."""
    return _call(rule, x, of_y.to(x.dtype).contiguous(memory_format=torch.channels_last))


def _call(rule, x, of_y):
    (images, maps, height, width), y = x.shape, torch.empty_like(x)
    window = rule.across_maps, rule.size, rule.alpha, rule.beta, rule.k
    norm = _Norm(images, height, width, maps, *window)
    tensors = (ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (x, of_y, y))
    if compiled(x.dtype)(ctypes.byref(norm), torch.get_num_threads(), *tensors):
        raise MemoryError(f"no memory to normalise {maps} maps of {height}x{width}")
    return y
