"""If these fail, a kill loses days of packing or leaves a pack with wrong bytes in it.

Packs are made again under kills, by two processes at once or in two parts, and compared to the
byte with those of the fixture `packs`, which were made without a disturbance.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from scenes import SIZE, Killed, kill

from alexnet2gpu.data.images import Moments
from alexnet2gpu.data.pack import packing
from alexnet2gpu.data.pack.layout import Form

KILLS = 3  # of each store; 20 takes half a minute


def contents(folder):
    """Name -> bytes. The lock is empty; a kill in the very last moment leaves it."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_a_kill_before_any_step_changes_nothing_in_the_end(
    store, photographs_folder, packs, no_processes, monkeypatch, tmp_path
):
    """Every flush, rename, removal and block is once the last thing that happens; the buffers of
    open files are written then, which a kill may prevent: see the next test."""
    todo = None

    def step(function):
        def stepped(*args, **how):
            nonlocal todo
            todo -= 1
            if todo < 0:
                raise Killed
            return function(*args, **how)

        return stepped

    for name in ("fsync", "replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, step(getattr(os, name)))
    monkeypatch.setattr(Moments, "include", step(Moments.include))
    expected, form = contents(packs[store]), Form(store, SIZE, quality=80)
    for steps in range(1000):
        todo, target = steps, tmp_path / str(steps)
        with contextlib.suppress(Killed):
            packing.make_pack(photographs_folder, target, form, every=0)
        unbroken = todo >= 0
        todo = 1000
        packing.make_pack(photographs_folder, target, form, every=0)
        assert contents(target) == expected, f"killed before step {steps}"
        assert not target.with_name(f"{steps}.partial").exists()
        if unbroken:
            break
    assert 20 < steps < 1000


SLOWLY = """
import sys, time
from pathlib import Path
from alexnet2gpu.data.pack import growth, layout, packing, workers
append = growth.Growth.append
appended = 0
def slowly(self, images, *rest):
    global appended
    if not appended:
        print("begun", flush=True)
    time.sleep(0.02)
    append(self, images, *rest)
    appended += len(images)
growth.Growth.append, workers.WORK = slowly, 2
if __name__ == "__main__":
    source, target, store = sys.argv[1:]
    form = layout.Form(store, SIZE, quality=80)
    packing.make_pack(Path(source), Path(target), form, workers=2, every=0.02)
    print("appended", appended)
""".replace("SIZE", str(SIZE))


def packing_slowly(*arguments):
    """A process, of a group of its own, that packs the photographs in a second. It says when the
    first of them are there, and at the end how many it has written."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def alive(group):
    """The processes of a group that have not ended."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(int(file.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_kills_at_random_moments_change_nothing_in_the_end(store, photographs_folder, packs, tmp_path):
    target, draw, sizes = tmp_path / "pack", random.Random(store), []
    for _ in range(KILLS):
        process = packing_slowly(photographs_folder, target, store)
        if draw.random() < 0.8:  # else while it starts
            process.stdout.readline()
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        while (left := alive(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        for survivor in left:
            os.kill(survivor, signal.SIGKILL)
        assert not left, f"{len(left)} processes have outlived the kill"
        sizes.append(sum(file.stat().st_size for file in tmp_path.glob("pack*/train.labels.i64")))
    process = packing_slowly(photographs_folder, target, store)
    written = int(process.communicate()[0].split()[-1])
    assert process.returncode == 0
    assert contents(target) == contents(packs[store])
    assert written < 27, f"after kills at {sizes} bytes of labels it started from nothing"


def test_of_two_processes_one_makes_the_pack(photographs_folder, packs, tmp_path):
    both = [packing_slowly(photographs_folder, tmp_path / "pack", "raw") for _ in range(2)]
    written = [int(process.communicate()[0].split()[-1]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(written) == [0, 27]
    assert contents(tmp_path / "pack") == contents(packs["raw"])
    assert not (tmp_path / "pack.partial").exists()


def test_a_pack_goes_on_from_the_folder_by_any_of_its_names(
    photographs_folder, packs, no_processes, monkeypatch, tmp_path
):
    """Begun as --data . and gone on with by its whole path."""
    form, target = Form("raw", SIZE), tmp_path / "pack"
    with monkeypatch.context() as change, pytest.raises(Killed):
        change.chdir(photographs_folder)
        change.setattr(os, "rename", kill)
        packing.make_pack(Path("."), target, form)
    packing.make_pack(photographs_folder, target, form)
    assert (target / "train.u8").read_bytes() == (packs["raw"] / "train.u8").read_bytes()
