"""If these fail, a mistake in packing ends in a traceback, or a changed pack is trained on.

Most run launch/pack.py in this process, on three photographs, and look at the one line it prints.
"""

import errno
import functools
import os
import shutil
import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY, ended
from scenes import InThisProcess, Killed, kill, write

from alexnet2gpu.data.pack import growth, layout, workers
from alexnet2gpu.faults import files

pack_py = functools.partial(ended, "pack")


def two_classes(folder):
    for place in ("train/a", "train/b", "val/a"):
        write(folder / place / "1.png", 0)
    return folder


MISTAKES = {
    "no val/": (
        lambda folder: shutil.rmtree(folder / "val"),
        [],
        "train: has no photographs: of one in a class none can be held out",
    ),
    "no classes": (
        lambda folder: [shutil.rmtree(file) for file in folder.glob("val/*")],
        [],
        "val: has no folders in it, one for every class",
    ),
    "a class of val/ only": (
        lambda folder: (folder / "val" / "c").mkdir(),
        [],
        "val/c: there is no such class in train/",
    ),
    "an empty class": (lambda folder: (folder / "train/b/1.png").unlink(), [], "train/b: has no photographs"),
    "nothing in val/": (lambda folder: (folder / "val/a/1.png").unlink(), [], "val: has no photographs"),
    "nothing readable": (
        lambda folder: (folder / "val/a/1.png").write_text("x"),
        [],
        "val/ has no photograph that can be read: a/1.png: not an image of a known",
    ),
    "no pack": (
        lambda folder: (folder / "pack-raw-8").mkdir(),
        [],
        "pack-raw-8: is there, but is not a pack: launch/pack.py --out PACK packs",
    ),
    "a size of 0": (lambda folder: None, ["--size", 0], "--size and --workers are at least 1"),
    "no such folder": (lambda folder: None, ["--data", "nowhere"], "nowhere: there is no such directory"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(mistake, no_processes, monkeypatch, tmp_path):
    make, arguments, complaint = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    make(two_classes(tmp_path))
    status, printed = pack_py("--data", tmp_path, "--size", 8, *arguments)
    check(status, printed, complaint)
    assert not (tmp_path / "nowhere").exists()


def check(status, printed, complaint):
    last = printed.splitlines()[-1]
    assert status == 2 and last.startswith("error: ") and complaint in last, printed
    assert "Traceback" not in printed and printed.count("error: ") == 1


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(no_processes, monkeypatch, tmp_path):
    two_classes(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=575))
    status, printed = pack_py("--data", tmp_path, "--size", 8)  # 3 x 192 bytes
    check(status, printed, "3 images take 0.0 GB more and 0.0 are free: launch/pack.py --out")
    assert not list(tmp_path.glob("*/*.u8"))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=576))
    with monkeypatch.context() as killed, pytest.raises(Killed):
        killed.setattr(os, "rename", kill)
        pack_py("--data", tmp_path, "--size", 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
    assert pack_py("--data", tmp_path, "--size", 8)[0] == 0  # all is there already


def test_a_disk_that_cannot_be_written_is_told_with_the_way_out(no_processes, monkeypatch, tmp_path):
    two_classes(tmp_path)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    status, printed = pack_py("--data", tmp_path, "--size", 8)
    check(status, printed, "partial/train.journal.npz: No space left on device: launch/pack.py --out ")


def test_a_begun_pack_that_has_lost_bytes_is_not_gone_on_with(no_processes, monkeypatch, tmp_path):
    """Else the images that were lost would be black."""
    two_classes(tmp_path)
    with monkeypatch.context() as killed, pytest.raises(Killed):
        killed.setattr(growth.Growth, "finish", kill)
        pack_py("--data", tmp_path, "--size", 8)
    os.truncate(tmp_path / "pack-raw-8.partial" / "train.u8", 100)
    status, printed = pack_py("--data", tmp_path, "--size", 8)
    check(status, printed, "train.u8: has lost what was noted of it: delete ")
    (tmp_path / "pack-raw-8.partial" / "train.journal.npz").write_bytes(b"PK")
    check(*pack_py("--data", tmp_path, "--size", 8), "train.journal.npz: unreadable: delete ")


def test_a_pack_of_another_form_is_named(packs):
    place = "--data", packs["jpeg"].parent, "--out", packs["jpeg"]
    status, printed = pack_py(*place, "--store", "raw", "--size", 24)
    check(status, printed, "jpeg: is a pack with store jpeg, not raw: delete it or choose another")
    status, printed = pack_py(*place, "--store", "jpeg", "--size", 24)
    check(status, printed, "jpeg: is a pack with quality 80, not 90")


def test_a_worker_that_was_killed_is_told(monkeypatch, tmp_path):
    class Broken(InThisProcess):
        def submit(self, *task):
            done = Future()
            done.set_exception(BrokenProcessPool())
            return done

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Broken)
    status, printed = pack_py("--data", two_classes(tmp_path), "--size", 8)
    check(status, printed, "a process that decodes was killed, as happens when memory is spent")


@pytest.mark.parametrize("change", ["quality", "photographs"])
@pytest.mark.parametrize("moment", ["train is whole", "train is begun"])
def test_what_was_begun_in_another_way_is_not_mixed(change, moment, no_processes, monkeypatch, tmp_path):
    two_classes(tmp_path)
    arguments = ["--data", tmp_path, "--size", 8, "--store", "jpeg"]
    with monkeypatch.context() as killed, pytest.raises(Killed):
        where = (os, "rename") if moment == "train is whole" else (growth.Growth, "finish")
        killed.setattr(*where, kill)
        pack_py(*arguments)
    if change == "photographs":
        write(tmp_path / "train/b/2.png", 1)
    status, printed = pack_py(*arguments, "--quality", 90 if change == "photographs" else 80)
    check(status, printed, "pack-jpeg-8.partial: was begun with other photographs or in another")
    (tmp_path / "train/b/2.png").unlink(missing_ok=True)
    assert pack_py(*arguments)[0] == 0


def test_a_pack_that_has_changed_is_named(packs, tmp_path):
    shutil.copytree(packs["raw"], tmp_path / "pack")
    assert pack_py("--data", tmp_path / "pack", "--check") == (0, "")
    for name in ("val.labels.i64", "train.mean.npy", "train.u8"):
        file = tmp_path / "pack" / name
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        status, printed = pack_py("--data", tmp_path / "pack", "--check")
        check(status, printed, f"{name}: not as it was written (crc32 ")
        content[-1] ^= 1
        file.write_bytes(content)
    file.write_bytes(content[:-1])
    size = f"{len(content) - 1:,} bytes, {len(content):,} expected: pack the folder again"
    with pytest.raises(ValueError, match=f"train.u8: has {size}"):
        layout.read_pack(tmp_path / "pack")
    file.unlink()
    with pytest.raises(ValueError, match="train.u8: is missing"):
        layout.read_pack(tmp_path / "pack")


@pytest.mark.parametrize("store, ending", [("raw", ".u8"), ("jpeg", ".jpegs")])
def test_an_image_that_has_changed_is_named_when_it_is_read(store, ending, packs, tmp_path):
    """One bit, in the middle of the file; all other images are read."""
    folder = shutil.copytree(packs[store], tmp_path / "pack")
    file = folder / f"train{ending}"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    images, _ = layout.read_pack(folder)
    refused = []
    for i in range(len(images)):
        try:
            images.pixels[i, :]
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) == 1 and f"train{ending}: image " in refused[0]
    assert "is not as it was written: pack the folder again" in refused[0]


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b'{"shape": [1', "val.json: not as it was written"),
        (b"[1]", "val.json: not as it was written"),
        (files.seal({"shape": [1, 24, 24, 3]}), "val.json.store: is missing: pack the folder again"),
    ],
)
def test_a_pack_with_another_sidecar_is_named(content, complaint, packs, tmp_path):
    shutil.copytree(packs["raw"], tmp_path / "pack")
    (tmp_path / "pack" / "val.json").write_bytes(content)
    with pytest.raises(ValueError) as error:
        layout.read_pack(tmp_path / "pack")
    assert complaint in str(error.value) and str(tmp_path / "pack") in str(error.value)


TERMINATED = """
import os, signal
from pathlib import Path
from alexnet2gpu.faults.mistakes import one_line_mistakes
with one_line_mistakes():
    from alexnet2gpu.data.pack import packing
    def check_room(*rest):
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("the disk is too small")
    packing._check_room = check_room
    packing.make_pack(Path("."), Path("pack"), packing.Form())
"""


def test_a_rank_that_is_ended_while_it_looks_for_mistakes_still_says_them(tmp_path):
    """torchrun ends rank 0, which prints, as soon as another rank has found the mistake."""
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED],
        capture_output=True,
        cwd=two_classes(tmp_path),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "error: the disk is too small\n")


UNGUARDED = """
from pathlib import Path
from alexnet2gpu.data.pack import packing
packing.make_pack(Path("."), Path("pack"), packing.Form(size=8), workers=1)
"""


def test_a_script_that_workers_run_again_is_told_not_to(tmp_path):
    """Each worker imports the user's script, which packs: it would wait for its own parent."""
    two_classes(tmp_path)
    (tmp_path / "script.py").write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, "script.py"],
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 1
    assert "put what it does under if __name__ == '__main__':" in done.stderr


def test_what_was_left_out_is_printed(no_processes, capsys, tmp_path):
    two_classes(tmp_path)
    for number in range(12):
        (tmp_path / "train" / "a" / f"{number:02}.jpg").write_text("x")
    (tmp_path / "train" / "a" / os.fsdecode(b"-\xfc.jpg")).write_text("x")
    assert pack_py("--data", tmp_path, "--size", 8, "--check")[0] == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 2 images of 2 classes, 13 left out:"
    assert "not an image" in lines[1]  # its name is no UTF-8, as old archives have them
    assert lines[2].startswith("  a/00.jpg: not an image of a known kind")
    assert lines[11] == f"  and others, all in {tmp_path / 'pack-raw-8' / 'train.json'}"
    assert lines[12] == "val: 1 images of 2 classes" and lines[13].endswith("as it was written")
