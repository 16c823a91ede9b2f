"""Files that were changed, at random or on purpose (changes.py), and what becomes of them.

Each of `victims` has files and says what a program makes of them:

    YAML        config.yaml of a run, resumed by launch/train.py
    checkpoint  state.json, tower-0.pt, tower-1.pt of a run's newest checkpoint, resumed
    pack        each file of a pack, opened, every image read
    sidecar     train.json and val.json of a pack, the same

No change may end in a traceback or a hang, and none in silence: the file is named in an error or in a remark,
or what was read is what was written. Run by bench.faults, and shorter by tests.
"""

import contextlib
import io
import itertools
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.pack import packing
from alexnet2gpu.data.pack.layout import Form, read_pack
from alexnet2gpu.faults.signals import Stop
from alexnet2gpu.runs.checkpoints.format import newest_checkpoint
from bench.faults.changes import changes
from bench.results import program_of, sets

LIMIT = 20  # seconds for one file


class Resumed:
    """A run of two checkpoints, resumed with one of its files changed; it is stopped after a step."""

    def __init__(self, folder: Path, files: Callable[[Path], list[Path]]):
        self.folder = folder
        for steps in (2, 4):
            short = ["train.batch=8", f"train.max_steps={steps}", "data.name=synthetic"]
            _train("--out", folder / "as it was", *sets(short), *["--resume"] * (steps > 2))
        self.files = files(folder / "as it was")
        self.config = load_config(folder / "as it was" / "config.yaml")

    def outcome(self, file: Path, content: bytes) -> str:
        """What is wrong with how the changed file is dealt with; "" if nothing is."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self.folder / "as it was", run, symlinks=True)
        file = run / file.relative_to(self.folder / "as it was")
        file.write_bytes(content)
        status, said = _train("--out", run, "--resume", stopped=True)
        if "Traceback" in said:
            return said
        if status == 2:
            sections = ("model.", "data.", "train.", "optim.", "memory.", "exchange.")
            named = file.name in said or any(section in said for section in sections)
            return "" if named and said.count("error: ") == 1 else said
        if status not in (0, 128 + signal.SIGTERM):
            return f"status {status}: {said}"
        if file.name == "config.yaml":
            same = load_config(run / "config.yaml") == self.config
            return "" if same or " was " in said else f"accepted in silence: {said}"
        return "" if f": {file.name}: " in said and "passed over" in said else f"in silence: {said}"


class Packed:
    """A pack of a few photographs, read with one of its files changed."""

    def __init__(self, folder: Path, store: str, kinds: str):
        for number, place in enumerate(["train/a", "train/b", "train/b", "val/a"]):
            (folder / place).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (24, 30, 3), np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{number}.png")
        self.pack = folder / f"pack-{store}"
        packing.make_pack(folder, self.pack, Form(store, 20), workers=1)
        self.files = sorted(self.pack.glob(kinds))
        self.expected = self._read()

    def _read(self):
        found = []
        for images in read_pack(self.pack):
            pixels = np.stack([images.pixels[i, :] for i in range(len(images))])
            found += [pixels, images.labels, images.names, images.mean, images.covariance]
        return found

    def outcome(self, file: Path, content: bytes) -> str:
        """What is wrong with how the changed file is dealt with; "" if nothing is."""
        before = file.read_bytes()
        file.write_bytes(content)
        try:
            found = self._read()
        except ValueError as error:
            return "" if file.name in str(error) else f"names another file: {error}"
        except Exception:
            return traceback.format_exc()
        finally:
            file.write_bytes(before)
        same = all(map(np.array_equal, found, self.expected))
        return "" if same else "accepted in silence"


class Hang(BaseException):
    """It took too long."""


def _late(number, frame):
    raise Hang


def victims(folder: Path) -> dict[str, Resumed | Packed]:
    """By name, made in an empty folder."""
    return {
        "YAML": Resumed(folder / "yaml", lambda run: [run / "config.yaml"]),
        "checkpoint": Resumed(folder / "run", lambda run: sorted(newest_checkpoint(run).iterdir())),
        "pack": Packed(folder / "raw", "raw", "*.[!j]*"),
        "pack of JPEG": Packed(folder / "jpeg", "jpeg", "*.[!j]*"),
        "sidecar": Packed(folder / "sidecar", "raw", "*.json"),
    }


def fuzz(victim, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Change a victim's files `count` times. Yields: file and change; what is wrong, or ""."""
    draw = random.Random(seed)
    contents = {file: file.read_bytes() for file in victim.files}
    sources = [(file, changes(content, draw)) for file, content in contents.items()]
    for file, source in itertools.cycle(sources):
        name, content = next(source)
        if content == contents[file]:
            continue
        before = signal.signal(signal.SIGALRM, _late)
        signal.alarm(LIMIT)
        try:
            wrong = victim.outcome(file, content)
        except Hang:
            wrong = f"still at it after {LIMIT} s"
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        yield f"{file.name}: {name}", wrong
        count -= 1
        if count == 0:
            return


def _train(*arguments, stopped=False):
    """launch/train.py in this process: its exit status and what it printed. If `stopped`, it is told to stop
    before its first step."""
    program = program_of("train")
    if stopped:
        program.Stop = _Stopped
    before = [(n, signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGINT)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            program.main(list(map(str, arguments)))
            return 0, said.getvalue()
    except SystemExit as exit_:
        return exit_.code, said.getvalue()
    except Exception:
        return 1, traceback.format_exc()
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class _Stopped(Stop):
    def __init__(self):
        super().__init__()
        self.signal = signal.SIGTERM


if __name__ == "__main__":  # python -m bench.faults.fuzz FOLDER COUNT: while one works on this file
    for kind, victim in victims(Path(sys.argv[1])).items():
        for what, wrong in fuzz(victim, int(sys.argv[2]), 0):
            if wrong:
                print(kind, what, wrong, sep="\n", end="\n\n")
    print("os.system was called" if os.path.exists("fuzzed") else "done")
