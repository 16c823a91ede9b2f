"""Which directory a run has: that of --out, a new one, or that of the run which torchrun has started anew."""

import contextlib
import itertools
import os
from pathlib import Path

from alexnet2gpu.faults.mistakes import one_line
from alexnet2gpu.ranks.store import store_of_all_starts
from alexnet2gpu.runs.checkpoints.format import checkpoints_of
from alexnet2gpu.runs.folder import BEGUN

RUNS = Path("runs")  # in the current directory, where --out says nothing else
FILES = "config.yaml", "metrics.jsonl", "memory.json", "run.json"  # of a run, besides checkpoints


def take_folder(name: str) -> Path:
    """Make runs/NAME, or runs/NAME-2, NAME-3, ... : the first that is not there; of several processes each
    gets its own."""
    RUNS.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = RUNS / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def check_folder(out: str | None, resume: bool) -> Path | None:
    """The directory that --out names, None if it names none. Raises: ValueError if it holds another run,
    holds none to resume, or cannot be written."""
    if resume and out is None:
        raise ValueError("--resume: say which run to go on with: --out DIR --resume")
    folder = Path(out or RUNS)
    if resume and not _holds_run(folder):
        way_out = "leave --resume out to start one"
        raise ValueError(f"--out {out} --resume: there is no run to go on with: {way_out}")
    if out and _holds_run(folder) and not resume:
        way_out = "give another directory, or add --resume to go on with it"
        raise ValueError(f"--out {out} holds another run: {way_out}")
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise ValueError(f"--out {str(folder)!r}: a name in it is not of UTF-8: give another") from None
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"--out {folder}: {there} is not a directory that can be written to: give another")
    return folder if out else None


def _holds_run(folder: Path) -> bool:
    """Whether there is anything of a run; empty files are of one that was ended at once."""
    files_of_it = (folder / name for name in FILES)
    full = any(file.exists() and (not file.is_file() or file.stat().st_size) for file in files_of_it)
    return full or bool(checkpoints_of(folder / "checkpoints"))


def begun_before() -> Path | None:
    """The run that was begun before torchrun started the ranks anew (--max-restarts), else None. Raises:
    ValueError if torchrun's store, which knows it, does not answer, or has not outlived the ranks."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    try:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            raise RuntimeError("rank 0 had it, and is gone")
        store = store_of_all_starts()
        begun = Path(store.get(BEGUN).decode()) if store.check([BEGUN]) else None
    except RuntimeError as error:
        silent = f"torchrun's store does not say which run was begun ({one_line(error)})"
        raise ValueError(f"{silent}: go on with --out DIR --resume") from None
    return begun if begun and (begun / "config.yaml").is_file() else None
