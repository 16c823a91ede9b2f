"""The ranks of a run as forks, in one of which a call fails: for calls.py.

The process that they are forks of has imported torch and computed nothing, so a rank is there in a moment;
failing.c is preloaded in it. Ranks get the environment that torchrun gives, and, on one machine, its SIGTERM.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from bench.processes import environment_of
from bench.results import program_of

FUNCTIONS = {  # in the order of failing.c -> what goes wrong
    "open": errno.EMFILE,
    "read": errno.EIO,
    "write": errno.ENOSPC,
    "fsync": errno.EIO,
    "rename": errno.ENOSPC,
    "mkdir": errno.ENOSPC,
    "unlink": errno.EIO,
    "truncate": errno.EIO,
    "thread": errno.EAGAIN,
    "memory": errno.ENOMEM,
}
LIMIT = 45  # seconds that a start may take
CALLED = ctypes.c_long.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))  # how often; shared with forks


class Fault(NamedTuple):
    """The call that fails."""

    function: str
    number: int
    forever: bool  # and all after it
    rank: int


class Ended(NamedTuple):
    """What came of a start."""

    statuses: list[int | None]  # None: it had to be killed
    left: bool  # something was still running
    said: str = ""
    noted: list[str] = []  # by each rank, for torchrun

    @property
    def well(self) -> bool:
        """Whether all ranks have done what they should."""
        return set(self.statuses) == {0}


def start(out: Path, more: list[str], ranks: int, apart: bool = False, fault: Fault | None = None) -> Ended:
    """Start the run on all its ranks, which are on machines of their own if `apart`; wait for their end."""
    import torch.distributed as dist

    log, pids = out.with_name(f"{out.name}.log"), []
    notes = [out.with_name(f"{out.name}.{rank}") for rank in range(ranks)]  # what torchrun repeats
    for file in (log, *notes):
        file.write_text("")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if ranks > 1 else None
    for rank in range(ranks):
        environment = environment_of(rank, ranks, store.port) if store else {}
        if store:
            environment["TORCHELASTIC_ERROR_FILE"] = notes[rank]
        if apart:
            environment |= {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        arguments = [*["--split-model"] * (ranks > 1), "--out", str(out), *more]
        own = fault if fault and fault.rank == rank else None
        pids.append(os.fork() or live(arguments, environment, log, out, own))
    ended = wait_for(pids, apart)
    return ended._replace(said=log.read_text(errors="replace"), noted=[file.read_text() for file in notes])


def live(arguments, environment, log, out, fault):
    """The life of a rank: it never returns."""
    status = 1
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1), os.dup2(file, 2), os.close(file)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.environ.update({name: str(value) for name, value in environment.items()})
        if fault:
            error, which = FUNCTIONS[fault.function], list(FUNCTIONS).index(fault.function)
            number, called = ctypes.c_long(fault.number), ctypes.byref(CALLED)
            ctypes.CDLL(None).fail_call(os.fsencode(out), which, error, fault.forever, number, called)
        program_of("train").main(arguments)
        status = 0
    except SystemExit as exit_:
        status = exit_.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # as a process that ends waits for its threads
        os._exit(status)


def wait_for(pids, apart):
    """Until all have ended: if one fails, torchrun sends the others of its machine SIGTERM."""
    until, statuses = time.monotonic() + LIMIT, dict.fromkeys(pids)
    while None in statuses.values() and time.monotonic() < until:
        time.sleep(0.01)
        for pid in [pid for pid in pids if statuses[pid] is None]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        if any(statuses.values()) and not apart:
            apart = True
            time.sleep(0.1)
            for pid in pids:
                signal_group(pid, signal.SIGTERM)
    left = [signal_group(pid, signal.SIGKILL) for pid in pids]
    for pid in [pid for pid in pids if statuses[pid] is None]:
        os.waitpid(pid, 0)
    return Ended(list(statuses.values()), any(left))


def signal_group(pid, number):
    """Returns: whether there was anybody to get it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
        return True
    return False


def complaints(ended: Ended, apart: bool, rank: int) -> list[str]:
    """What is wrong with how a start has ended in which a call of a rank failed."""
    lines = [line for line in ended.said.splitlines() if line.startswith("error")]
    lines = lines or [note for note in ended.noted[rank:][:1] if note]  # torchrun ends with it
    wrong = ["something was left running"] * ended.left
    wrong += ["a traceback"] * ("Traceback" in ended.said)
    if ended.well:
        return wrong + [f"it was borne, but said: {line}" for line in lines]
    allowed = {2} if apart else {2, 143, -signal.SIGTERM}
    if ended.statuses[rank] != 2 or not set(ended.statuses) <= allowed:
        wrong.append(f"statuses {ended.statuses}")
    return wrong + [f"{len(lines)} lines"] * (len(lines) != 1)


@contextlib.contextmanager
def preloaded(folder):
    """Processes that are started meanwhile have failing.c in them."""
    library, before = folder / "failing.so", dict(os.environ)
    compile_ = ["cc", "-O1", "-shared", "-fPIC", Path(__file__).with_name("failing.c"), "-o", library, "-ldl"]
    subprocess.run(compile_, check=True)
    try:
        os.environ |= {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
