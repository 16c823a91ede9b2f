"""What is shown, in one place: output that nobody can take any more ends no run.

The pipe to `tee` may be closed, the terminal gone, the disk behind a log full. After `protect`, stdout and
stderr lose what they cannot show and never raise, whoever writes to them: print, tqdm, warnings, tracebacks.

What ends a rank is noted for torchrun as well, which shows it once more below its own traceback.
"""

import contextlib
import io
import json
import os
import sys
import time


class Lossy(io.FileIO):
    """A file of bytes that never raises when they cannot be written."""

    def write(self, data):
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(data)


def protect() -> None:
    """Make stdout and stderr such files, unless somebody has put others in their place. Where one is closed
    from the start (2>&-), no file that is opened later takes its number, and what others write there."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            lossy = io.BufferedWriter(Lossy(number, "w", closefd=False))
            encoding = getattr(stream, "encoding", "utf-8")  # letters that it has not are written out
            setattr(sys, name, io.TextIOWrapper(lossy, encoding, "backslashreplace", line_buffering=True))


def progress_bar(total: int, done: int, what: str, **how):
    """tqdm's, below which the next line is printed; seldom drawn where nobody is looking. Of 80 columns what
    is said at its end has most."""
    from tqdm import tqdm  # here, since this file is imported first of all

    every = 0.5 if sys.stderr.isatty() else 10  # seconds
    look = {"leave": False, "dynamic_ncols": True, "mininterval": every}
    look["bar_format"] = (
        "{desc}: {percentage:.0f}%|{bar:8}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    )
    return tqdm(total=total, initial=done, desc=what, **look, **how)


def show_error(text: str, report: str = "") -> None:
    """Print what ends this rank, below a progress bar, and below the traceback in `report`; and note it."""
    print(f"\n{report}error: {text}", file=sys.stderr, flush=True)
    note_error(text)


def note_error(text: str) -> None:
    """Leave for torchrun what ends this rank; it tells what it finds of the rank that ended first."""
    about = {"py_callstack": text, "timestamp": str(int(time.time()))}
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError), open(file, "w") as opened:
            json.dump({"message": {"message": text, "extraInfo": about}}, opened)
