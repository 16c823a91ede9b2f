"""Is another process alive, what has failed, and where in the package is this one."""

import os
import socket
import sys
import threading
from pathlib import Path

import torch
import torch.distributed as dist

PACKAGE = Path(__file__).parents[1]


def communication_failed(error: BaseException) -> bool:
    """Whether it is another rank that has failed. gloo's errors have no class of their own."""
    said = str(error).lower()
    named = isinstance(error, RuntimeError) and ("gloo" in said or "nccl" in said)
    return named or isinstance(error, dist.DistError)


def memory_ran_out(error: BaseException) -> bool:
    """torch's error of the CPU has no class of its own."""
    named = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return named or isinstance(error, MemoryError | torch.OutOfMemoryError)


def gone(word: dict) -> bool:
    """Whether a process of this machine has ended without saying so; `word` is its last."""
    return not word["done"] and word["host"] == socket.gethostname() and not alive(word["pid"])


def alive(pid: int) -> bool:
    """Whether a process of this machine runs, or is stopped; in doubt it does."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return status not in ("Z", "X")  # those its parent has not noticed yet
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without /proc
        return True


def whereabouts() -> str:
    """Where in the package the main thread is."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if PACKAGE in file.parents:
            return f"{file.name}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return "its start or its end"
