"""If these fail, a file of a few bytes takes the machine's memory, its time, or runs a program; or a link
leads what is written to somebody else's file.

bench/faults/readers.py tries thousands of such files; here is one for each kind that went wrong once.
"""

import gzip
import io
import os
import pickle
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError
from scenes import Killed, kill, write

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.idx import IDX_FILES, read_idx, read_idx_folder
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.pack import growth, layout, packing
from alexnet2gpu.data.pack.photograph import KINDS, read_photograph
from alexnet2gpu.data.pack.stores import decode_jpeg
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.faults import files

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
PIXELS = np.zeros((2, 8, 8, 3), np.uint8)


def test_no_program_is_run_for_a_picture(tmp_path):
    """Pillow runs Ghostscript on PostScript, whatever the file is called."""
    (tmp_path / "x.jpg").write_bytes(POSTSCRIPT)
    with pytest.raises(ValueError, match="not an image of a known kind"):
        read_photograph(tmp_path / "x.jpg", (8, 8, 3))
    with pytest.raises(UnidentifiedImageError):
        decode_jpeg(POSTSCRIPT, (8, 8, 3))


def test_a_photograph_may_have_any_usual_format(tmp_path):
    Image.init()
    for kind in set(KINDS) & set(Image.SAVE):
        Image.new("RGB", (20, 20), (200, 100, 50)).save(tmp_path / "x", kind)
        read = read_photograph(tmp_path / "x", (8, 8, 3)).astype(int)
        assert np.abs(read - [200, 100, 50]).max() < 12, kind


def test_a_small_file_of_many_pixels_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("1", (8000, 6000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="8000x6000 pixels, more than a file of its size should have"):
        read_photograph(tmp_path / "bomb.png", (8, 8, 3))
    string = io.BytesIO()
    Image.new("L", (9, 8)).save(string, "JPEG")
    with pytest.raises(ValueError, match="it has 8x9 pixels"):
        decode_jpeg(string.getvalue(), (8, 8, 3))


def arrays(folder, **others):
    """Arrays as data.name=arrays reads them, one of them written by another function."""
    for part in ("train", "test"):
        for kind, array in (("images", PIXELS), ("labels", np.array([0, 3]))):
            name = f"{part}_{kind}"
            others.get(name, lambda file: np.save(file, array))(folder / f"{name}.npy")
    small = ["model.input=[3,8,8]", "data.crop=null"]
    stages = "model.stages=[{flat: flatten, fc8: {type: linear, out: 10, init: 1}}]"
    place = ["data.name=arrays", f"data.dir={folder}"]
    config = load_config("configs/quick.yaml", [*small, stages, *place])
    return load_images(config.data, config.model)


def write_zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", b"x")


def write_header(shape, kind):
    head = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return lambda file: file.write_bytes(b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head)


NO_ARRAYS = {
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a loop": lambda file: file.symlink_to(file),
    "an archive of arrays": lambda file: np.savez(open(file, "wb"), PIXELS),
    "another archive": write_zip,
    "a negative shape": write_header((-2, 8, 8, 3), "|u1"),
    "a huge shape": write_header((2**62, 8, 8, 3), "|u1"),
    "objects": lambda file: np.save(file, np.array([{}, None]), allow_pickle=True),
    "a pickle": lambda file: file.write_bytes(pickle.dumps([1])),
}


@pytest.mark.parametrize("name", ["train_images", "test_labels"])
@pytest.mark.parametrize("what", NO_ARRAYS)
def test_what_is_no_array_is_named(what, name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}.npy: unreadable: "):
        arrays(tmp_path, **{name: NO_ARRAYS[what]})


def test_labels_are_counted_before_they_are_widened(tmp_path):
    """A file without content that says it has 2 ** 36 labels: 550 GB as int64."""

    def write_many(file):
        write_header((2**36,), "|u1")(file)
        os.truncate(file, file.stat().st_size + 2**36)

    try:
        write_many(tmp_path / "there is room")
    except OSError:
        pytest.skip("no file of 69 GB here")
    with pytest.raises(ValueError, match="2 images should have as many whole-number labels, not uint8"):
        arrays(tmp_path, test_labels=write_many)


def test_labels_become_int64_and_none_becomes_another():
    assert Images(PIXELS, np.array([0, 3], ">u2"), 4).labels.dtype == np.int64
    with pytest.raises(ValueError, match="labels from 0 to 18446744073709551615, with 4 classes"):
        Images(PIXELS, np.array([0, 2**64 - 1], np.uint64), 4)


def idx(*shape, content=b""):
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + content


def test_an_idx_file_is_not_unpacked_where_it_cannot_be_right(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx(2**14, 2**15)))
    with pytest.raises(ValueError, match="it says that it has 536,870,912 bytes, in "):
        read_idx(tmp_path / "x.gz")
    (tmp_path / "x").write_bytes(idx(2, 8, 8, 3, content=bytes(383)))
    with pytest.raises(ValueError, match="cut short"):
        read_idx(tmp_path / "x")
    for name, content in zip(IDX_FILES, [idx(2, 8, 8, content=bytes(128)), idx(2**27)] * 2):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="train-labels.*: 2 images should have as many labels, not "):
        read_idx_folder(tmp_path)


@pytest.mark.parametrize(
    "change, key",
    [
        ({"shape": [21, 24, 24]}, "shape: should be a list of 4"),
        ({"shape": [21, 24, 24, 0]}, "shape.3: should be a whole number, at least 1"),
        ({"shape": [21, 24, 24, 10**30]}, "shape.3: should be a whole number"),
        ({"store": "zip"}, "store: should be one of raw, jpeg"),
        ({"classes": "abc"}, "classes: should be a list"),
        ({"classes": ["a", 3, "c"]}, "classes.1: should be text"),
        ({"source": [1]}, "source: should be a section"),
        ({"skipped": [["a", "b", "c"]]}, "skipped.0: should be a list of 2"),
        ({"checksums": {"train.u8": 3}}, "checksums.train.u8: should be text"),
        ({"covariance": [[float("nan")] * 3] * 3}, "covariance: should be a number or null"),
        ({"covariance": [[1.0]]}, r"the covariance should be finite, \(3, 3\)"),
        ({"mean": 3}, "mean: should be text or null"),
        ({"more": 3}, "more: unknown key"),
    ],
)
def test_a_sidecar_is_checked_although_it_is_sealed(change, key, packs, tmp_path):
    for file in packs["raw"].iterdir():
        (tmp_path / file.name).symlink_to(file)
    sidecar = tmp_path / "train.json"
    said = files.read_sealed(sidecar)
    sidecar.unlink()
    sidecar.write_bytes(files.seal({**said, **change}))
    with pytest.raises(ValueError, match=f"{tmp_path}.*{key}.*: pack the folder again"):
        layout.read_pack(tmp_path)


def begun(folder):
    """A folder of photographs, and PACK.partial of it, as a kill leaves it."""
    for place in ("train/a", "train/b", "val/a"):
        write(folder / place / "1.png", 0)
    with pytest.MonkeyPatch.context() as killed, pytest.raises(Killed):
        killed.setattr(growth.Growth, "finish", kill)
        packing.make_pack(folder, folder / "pack", layout.Form("raw", 8))
    return folder / "pack.partial"


@pytest.mark.parametrize("name", ["lock", "train.u8", "train.sums.u32"])
def test_no_link_is_followed_where_a_pack_is_written(name, no_processes, tmp_path):
    file = begun(tmp_path) / name
    file.rename(tmp_path / "somebody else's")
    file.symlink_to(tmp_path / "somebody else's")
    before = (tmp_path / "somebody else's").read_bytes()
    with pytest.raises(ValueError, match=f"{name}: is a link, and none is followed to write"):
        packing.make_pack(tmp_path, tmp_path / "pack", layout.Form("raw", 8))
    assert (tmp_path / "somebody else's").read_bytes() == before


@pytest.mark.parametrize("change", ["sums of another shape", "packed", "another type", "no archive"])
def test_a_journal_is_checked(change, no_processes, tmp_path):
    journal = begun(tmp_path) / "train.journal.npz"
    parts = dict(np.load(journal))
    parts |= {"total": parts["total"][:1]} if change == "sums of another shape" else {}
    if change == "another type":
        parts["progress"] = str(parts["progress"]).replace('"taken": 2', '"taken": "2"')
    (np.savez_compressed if change == "packed" else np.savez)(journal, **parts)
    if change == "no archive":
        np.save(open(journal, "wb"), PIXELS)
    with pytest.raises(ValueError, match="train.journal.npz: unreadable: delete "):
        packing.make_pack(tmp_path, tmp_path / "pack", layout.Form("raw", 8))


def test_a_sidecar_is_written_as_it_was_read(packs):
    """The order of keys, and how each is written: packs are compared byte by byte."""
    sidecar = layout.Part(packs["raw"], "train").read_sidecar()
    assert files.seal(asdict(sidecar)) == layout.Part(packs["raw"], "train").sidecar.read_bytes()
    order = ["shape", "store", "source", "checksums", "mean", "covariance", "skipped", "classes"]
    assert list(asdict(sidecar)) == order
