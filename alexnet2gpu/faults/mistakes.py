"""A user's mistake ends a run in one line with the way out, and status 2 from every rank.

Every rank checks alone all that a user can get wrong, before the process group starts, and raises ValueError.
This file imports nothing slow: its guard must stand before torch is imported. Two races:

- torchrun sends SIGTERM to all ranks as soon as one has failed, and rank 0, which prints, may be the slowest.
  So a rank that is still checking notes the signal and finishes its check: it comes to the same conclusion.
- A mistake may be known to one rank only (one machine of several lacks a folder). So the first rank of every
  other machine prints too, with its number, and all of them leave a verdict for ranks that wait for them.
"""

import contextlib
import json
import os
import signal
import sys
import threading

from alexnet2gpu.faults.screen import note_error, protect
from alexnet2gpu.ranks.machine import out_of_memory, out_of_threads

LAUNCHER = os.getppid()  # torchrun, if a rank is not an orphan from the first
VERDICT = "verdict"  # key of the ranks' store: the first that knows says there who has failed, and the status


@contextlib.contextmanager
def one_line_mistakes():
    """While the body runs, a mistake becomes one line and exit status 2, and Ctrl-C status 130.

    A SIGTERM that arrives meanwhile takes effect only after the body has ended well (status 143); after a
    mistake it is ignored, so that it cannot change the status of a rank on its way out.
    """
    protect()
    if threading.current_thread() is not threading.main_thread():
        _report("main() was called in a thread, where signals cannot be handled: call it in the main one")
        raise SystemExit(2)
    if "RANK" in os.environ:  # ranks wait for each other in C++, where Python's handler is not run
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    arrived = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: arrived.append(number))
    try:
        yield
    except Exception as error:
        if not is_mistake(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _report(one_line(error))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    signal.signal(signal.SIGTERM, previous)
    if arrived:
        raise SystemExit(128 + signal.SIGTERM)


def is_mistake(error: BaseException) -> bool:
    """Whether it is a user's, or the machine's that was too small; whatever else is raised is a bug."""
    return isinstance(error, ValueError | OSError) or out_of_memory(error) or out_of_threads(error)


def one_line(error: BaseException) -> str:
    """What an error says, with its kind if it is not one of those that name the way out; of what is very
    long, as a name in a damaged file may be, not the middle."""
    text = " ".join(str(error).split())
    text = text if len(text) < 1400 else f"{text[:900]} ... {text[-400:]}"
    if out_of_memory(error):
        text += ": make train.batch smaller: launch/memory.py --budget finds how large it may be"
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _report(text):
    rank = os.environ.get("RANK") or "0"
    if rank == "0" or os.environ.get("LOCAL_RANK", "0") == "0":
        who = "" if rank == "0" else f" (rank {rank})"
        print(f"error{who}: {text}", file=sys.stderr, flush=True)
    note_error(text)
    if os.environ.get("LOCAL_WORLD_SIZE") not in (None, os.environ.get("WORLD_SIZE")):
        from alexnet2gpu.ranks.store import store

        with contextlib.suppress(RuntimeError, ValueError):  # of a rank that is no number, too
            store().compare_set(VERDICT, "", json.dumps({"rank": int(rank), "status": 2, "text": text}))
