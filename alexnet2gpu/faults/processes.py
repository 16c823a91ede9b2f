"""Is another process alive, what has failed, and where in the package is this one."""

import functools
import os
import socket
import sys
import threading
from pathlib import Path

import torch.distributed as dist

from alexnet2gpu.ranks.machine import out_of_memory

PACKAGE = Path(__file__).parents[1]


def communication_failed(error: BaseException) -> bool:
    """Whether it is another rank that has failed. gloo's errors have no class of their own."""
    said = str(error).lower()
    named = isinstance(error, RuntimeError) and ("gloo" in said or "nccl" in said)
    return (named or isinstance(error, dist.DistError)) and not out_of_memory(error)


@functools.cache
def kernel() -> str:
    """What numbers of processes count in: this boot of a system, and its namespace of them, since containers
    may share all but that. Where the system does not tell, the host's name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return socket.gethostname()


def gone(word: dict) -> bool:
    """Whether a process of this machine has ended without saying so; `word` is its last."""
    return not word["done"] and word["kernel"] == kernel() and not alive(word["pid"])


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
    """Where in the package the main thread is; or autograd's, to which it leaves the way back on a GPU."""
    frames, main = sys._current_frames(), threading.main_thread().ident
    ours = {thread.ident for thread in threading.enumerate() if not thread.name.startswith("Dummy")}
    found = [_in_package(frame) for ident, frame in frames.items() if ident not in ours]
    found.append(_in_package(frames.get(main)))
    frames.clear()  # this call's own is among them: a circle, which would keep what all of them hold
    return next(filter(None, found), "its start or its end")


def _in_package(frame):
    """The innermost place of a thread that is in the package, in words."""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if PACKAGE in file.parents:
            return f"{file.name}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return None
