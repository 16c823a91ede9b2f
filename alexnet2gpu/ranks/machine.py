"""The machine: how many cores there are, memory that stays with the process when it is freed, and how it is
said that memory did not suffice.

glibc asks the system for every block of more than 32 MB anew and gives it back when it is freed; each of
its pages then costs a fault when it is written for the first time. A batch of 128 images of 224x224 has
19,000 pages, which take several times as long as computing what is written there.
"""

import ctypes
import os
import re

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def cores() -> int:
    """How many this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_freed_memory() -> bool:
    """From now on, take memory from the heap only, by 64 MiB, and return none of it.

    Returns: whether it could be arranged; only glibc has it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    options = (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)
    return mallopt is not None and all(mallopt(*option) for option in options)


def out_of_threads(error: BaseException) -> bool:
    """Whether the system has refused to start a thread, as after `ulimit -u`."""
    said = "can't start new thread|^Resource temporarily unavailable"  # Python's; C++'s, by way of torch
    return isinstance(error, RuntimeError) and bool(re.search(said, str(error)))


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, of a GPU or the machine, has not sufficed: what torch says of its allocators, and what
    it passes on of CUDA, cuBLAS, cuDNN, NCCL and Triton, for which it has no class."""
    names = "OutOfMemory|out of memory|can't allocate memory|ALLOC(ATION)?_FAILED|cudaErrorMemoryAllocation"
    said = isinstance(error, RuntimeError) and re.search(names, repr(error))
    return bool(said) or isinstance(error, MemoryError)
