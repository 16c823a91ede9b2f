"""If these fail, training sees other photographs than lie in the folder, or loses days of packing.

What is expected comes from plain loops over the files: Pillow opens and scales one photograph,
numpy averages, torchvision says in which order.
"""

import contextlib
import io
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, metrics, program, train
from PIL import Image

from alexnet2gpu.config import load_config
from alexnet2gpu.data import growth, pack, packing
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.growth import Form
from alexnet2gpu.data.images import Moments
from alexnet2gpu.data.photographs import Photographs, classes_of, read_square
from alexnet2gpu.data.prepare import Preparation

KILLS = 3  # of each store; 20 takes half a minute
SIZE = 24
SHAPES = [(24, 24), (60, 31), (31, 60), (90, 7), (5, 40), (10, 9), (1, 1), (48, 48), (25, 24)]


def scene(width, height, seed):
    """A photograph of (height, width, 3): colours that change slowly, and some noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 17
    waves = [np.sin(draw.uniform(0, 6) + a * x + b * y) for a, b in draw.uniform(-1, 1, (3, 2))]
    return np.uint8(128 + 90 * np.stack(waves, 2) + draw.normal(0, 8, (height, width, 3)))


def write(file, seed, shape=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(*(shape or SHAPES[seed % len(SHAPES)]), seed)).save(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of odd shapes; names whose order is not that in which they were written."""
    folder = tmp_path_factory.mktemp("photographs")
    names = ["b.jpg", "A.png", "10.jpg", "9.jpg", "deep/1.png", "a b.jpeg", "ü.png"]
    seed = 0
    for part, classes in {"train": ["emu", "cat", "Dog"], "val": ["emu", "cat"]}.items():
        for name in classes:
            for file in names if part == "train" else names[:3]:
                write(folder / part / name / file, seed)
                seed += 1
    return folder


@pytest.fixture(scope="module")
def packs(folder, tmp_path_factory):
    """Store -> the folder packed in it, by two processes."""
    base = tmp_path_factory.mktemp("packs")
    for store in ("raw", "jpeg"):
        packing.pack(folder, base / store, Form(store, SIZE, quality=80), workers=2)
    return {store: base / store for store in ("raw", "jpeg")}


def squares(folder, part, labels, size=SIZE):
    """The plain loop: pixels (N, size, size, 3) and labels, class by class, name by name."""
    pixels, numbers = [], []
    for name in sorted(labels):
        for file in sorted((folder / part / name).rglob("*.*"), key=lambda f: (str(f.parent), f)):
            image = Image.open(file).convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = left, top, left + side, top + side
            pixels.append(np.asarray(image.resize((size, size), Image.LANCZOS, box)))
            numbers.append(labels[name])
    return np.stack(pixels), numbers


LABELS = {"Dog": 0, "cat": 1, "emu": 2}


def test_a_raw_pack_is_what_a_plain_loop_makes_of_the_folder(folder, packs):
    images = dict(zip(pack.PARTS, pack.read_pack(packs["raw"])))
    for part, labels in {"train": LABELS, "val": {"cat": 1, "emu": 2}}.items():
        pixels, numbers = squares(folder, part, labels)
        assert images[part].pixels.shape == pixels.shape
        for i, square in enumerate(pixels):
            assert np.array_equal(images[part].pixels[i, :, :], square), f"{part}, photograph {i}"
        assert images[part].labels.tolist() == numbers
        assert images[part].names == ("Dog", "cat", "emu") and images[part].classes == 3
        assert (packs["raw"] / f"{part}.u8").read_bytes() == pixels.tobytes()
        stored = np.fromfile(packs["raw"] / f"{part}.labels.i64", "<i8")
        assert stored.tolist() == numbers
        assert pack.read_sidecar(packs["raw"], part)["skipped"] == []


def test_order_and_labels_are_those_of_torchvision(folder):
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(folder / "train")
    ours = Photographs(folder / "train", classes_of(folder))
    assert ours.classes == theirs.classes and ours.count == len(theirs)
    assert [(str(folder / "train" / name), label) for name, label in ours] == theirs.samples


def test_mean_and_covariance_are_of_the_training_pixels_in_plain_numpy(folder, packs):
    pixels = squares(folder, "train", LABELS)[0].astype(np.float64)
    images, test_images = pack.read_pack(packs["raw"])
    np.testing.assert_allclose(images.mean_image(), pixels.mean(0), rtol=1e-6)
    colours = pixels.reshape(-1, 3)
    expected = (colours - colours.mean(0)).T @ (colours - colours.mean(0)) / len(colours)
    np.testing.assert_allclose(images.colour_covariance(), expected, rtol=1e-6)
    assert images.mean.dtype == np.float32 and test_images.mean is None


def test_the_middle_of_a_photograph_stays(tmp_path):
    """Stripes of red, green and blue: whether they lie or stand, the square is the green one."""
    stripes = np.zeros((20, 60, 3), np.uint8)
    for colour in range(3):
        stripes[:, 20 * colour : 20 * colour + 20, colour] = 255
    for number, picture in enumerate([stripes, stripes.transpose(1, 0, 2)]):
        file = tmp_path / f"{number}.png"
        Image.fromarray(np.ascontiguousarray(picture)).save(file)
        assert (read_square(file, 20) == [0, 255, 0]).all()
        centre = read_square(file, 8)[2:-2, 2:-2].astype(int)
        assert np.abs(centre - [0, 255, 0]).max() < 10


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path):
    """Its shorter side is more than four times the size, so half of it is decoded."""
    write(tmp_path / "train" / "x" / "large.jpg", 5, (400, 300))
    expected, _ = squares(tmp_path, "train", {"x": 0})
    read = read_square(tmp_path / "train" / "x" / "large.jpg", SIZE)
    assert np.abs(read.astype(int) - expected[0]).mean() < 1


def test_the_jpeg_store_is_read_as_pillow_decodes_it(folder, packs):
    squares_of = squares(folder, "train", LABELS)[0]
    images, _ = pack.read_pack(packs["jpeg"])
    offsets = np.fromfile(packs["jpeg"] / "train.offsets.i64", "<i8")
    strings = (packs["jpeg"] / "train.jpegs").read_bytes()
    assert offsets[0] == 0 and offsets[-1] == len(strings) and len(offsets) == len(images) + 1
    decoded = []
    for i, square in enumerate(squares_of):
        string = strings[offsets[i] : offsets[i + 1]]
        expected = io.BytesIO()
        Image.fromarray(square).save(expected, "JPEG", quality=80)
        assert string == expected.getvalue()
        decoded.append(np.asarray(Image.open(io.BytesIO(string))))
        assert np.array_equal(images.pixels[i, :, :], decoded[i])
        assert np.array_equal(images.pixels[i, 3:14, 5:9], decoded[i][3:14, 5:9])
    np.testing.assert_allclose(images.mean_image(), np.mean(decoded, 0), rtol=1e-6)
    assert np.abs(images.mean_image() - squares_of.mean(0)).max() > 0.1  # so it is not of those


def halves(first, second):
    """(8, 8, n): the left half of one colour, the right half of another."""
    pixels = np.empty((8, 8, len(first)), np.uint8)
    pixels[:, :4], pixels[:, 4:] = first, second
    return pixels


def save_odd(folder):
    """A file of each kind -> what a person sees in its upper left and its lower right corner."""
    def save(name, image, **options):
        image.save(folder / name, **options)

    save("grey.png", Image.fromarray(halves([100], [7])[:, :, 0]))
    deep = np.where(halves([0], [1])[:, :, 0] == 1, 65535, 128 * 256 + 200).astype(np.uint16)
    save("grey16.png", Image.fromarray(deep))
    save("bilevel.png", Image.fromarray(halves([0], [255])[:, :, 0]).convert("1"))
    save("cmyk.jpg", Image.fromarray(halves([255, 0, 0, 0], [0, 0, 0, 255]), "CMYK"), quality=95)
    palette = Image.fromarray(halves([1], [2])[:, :, 0], "P")
    palette.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    save("palette.png", palette)
    save("palette_clear.png", palette, transparency=2)
    save("palette_clear.gif", palette, transparency=2)
    save("rgba.png", Image.fromarray(halves([0, 0, 0, 51], [200, 100, 50, 255])))
    save("grey_alpha.png", Image.fromarray(halves([9, 0], [9, 255])))
    save("rgb_clear.png", Image.fromarray(halves([1, 2, 3], [4, 5, 6])), transparency=(1, 2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: what is stored left is the top
    wide = np.repeat(np.repeat(halves([255, 0, 0], [0, 0, 255]), 4, 0), 8, 1)
    save("turned.jpg", Image.fromarray(wide), quality=95, exif=exif)
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    save("animated.gif", first, save_all=True, append_images=[second])
    white, red, blue = (255, 255, 255), (255, 0, 0), (0, 0, 255)
    return {
        "grey.png": ((100,) * 3, (7,) * 3), "grey16.png": ((128,) * 3, white),
        "bilevel.png": ((0,) * 3, white), "cmyk.jpg": ((0, 255, 255), (0,) * 3),
        "palette.png": (red, blue), "palette_clear.png": (red, white),
        "palette_clear.gif": (red, white), "rgba.png": ((204,) * 3, (200, 100, 50)),
        "grey_alpha.png": (white, (9,) * 3), "rgb_clear.png": (white, (4, 5, 6)),
        "turned.jpg": (red, blue), "animated.gif": (red, red),
    }  # fmt: skip


BROKEN = ["cut.jpg", "cut.png", "empty.png", "float.tif", "notes.txt", "renamed.jpg"]


def save_broken(folder):
    """What no person could see anything in, and files that are none of ours."""
    for ending in ("jpg", "png"):
        whole = io.BytesIO()
        Image.fromarray(scene(50, 50, 0)).save(whole, "JPEG" if ending == "jpg" else "PNG")
        (folder / f"cut.{ending}").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (folder / "empty.png").touch()
    Image.fromarray(np.ones((8, 8), np.float32)).save(folder / "float.tif")
    (folder / "notes.txt").write_text("to do:\nlabel the rest")
    (folder / "renamed.jpg").write_bytes(bytes(range(256)))
    (folder / ".hidden.png").write_text("no picture")
    (folder / "._cut.jpg").write_text("no picture")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The pack of odd and broken files at full size, and what should be seen."""
    folder = tmp_path_factory.mktemp("odd")
    for place in ("train/odd", "train/plain", "val/odd"):
        (folder / place).mkdir(parents=True)
    seen = save_odd(folder / "train" / "odd")
    save_broken(folder / "train" / "odd")
    for place in ("train/plain", "val/odd"):
        Image.new("RGB", (3, 5), (1, 2, 3)).save(folder / place / "x.png")
    target = folder / "pack"
    packing.pack(folder, target, Form("raw", 256), workers=1)
    return target, seen


def test_odd_files_become_what_a_person_sees(odd):
    target, seen = odd
    images, _ = pack.read_pack(target)
    assert len(images) == len(seen) + 1
    for i, (name, (upper, lower)) in enumerate(sorted(seen.items())):
        off = 6 if name.endswith(".jpg") else 0
        pixels = images.pixels[i, :, :].astype(int)
        assert np.abs(pixels[5, 5] - upper).max() <= off, (name, pixels[5, 5])
        assert np.abs(pixels[-5, -5] - lower).max() <= off, (name, pixels[-5, -5])
    turned = images.pixels[sorted(seen).index("turned.jpg"), :, :]
    assert turned[5, -5, 0] > 240 and turned[-5, 5, 2] > 240  # red above, blue below


def test_files_that_cannot_be_read_are_left_out_named_with_the_reason(odd):
    target, seen = odd
    skipped = pack.read_sidecar(target, "train")["skipped"]
    assert [name for name, _ in skipped] == [f"odd/{name}" for name in BROKEN]
    assert all(reason and "\n" not in reason for _, reason in skipped)
    assert "truncated" in dict(skipped)["odd/cut.jpg"].lower()
    assert "not whole numbers" in dict(skipped)["odd/float.tif"]
    images, test_images = pack.read_pack(target)
    assert images.labels.tolist() == [0] * len(seen) + [1]  # those after them keep theirs
    assert (images.pixels[len(seen), :, :] == [1, 2, 3]).all()
    assert len(test_images) == 1 and pack.read_sidecar(target, "val")["skipped"] == []
    assert pack.read_sidecar(target, "train")["source"]["photographs"] == len(seen) + 1 + 6


def test_an_image_of_256_pixels_starts_on_a_page(odd):
    target, seen = odd
    assert (target / "train.u8").stat().st_size == (len(seen) + 1) * 256 * 256 * 3
    assert 256 * 256 * 3 == 48 * 4096 and 256 * 256 * 3 % mmap.PAGESIZE == 0


class InThisProcess:
    """In place of the worker processes, where these are not what is tested: quicker."""

    def __init__(self, *how):
        pass

    def submit(self, function, *args):
        done = Future()
        done.set_result(function(*args))
        return done

    def shutdown(self, **how):
        pass


@pytest.fixture
def no_processes(monkeypatch):
    monkeypatch.setattr(packing, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(packing, "AT_ONCE", 8)
    monkeypatch.setattr(os, "fsync", lambda file: None)


def contents(folder):
    """Name -> bytes. The lock is empty; a kill in the very last moment leaves it."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_a_kill_before_any_step_changes_nothing_in_the_end(
    store, folder, packs, no_processes, monkeypatch, tmp_path
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
            packing.pack(folder, target, form, every=0)
        unbroken = todo >= 0
        todo = 1000
        packing.pack(folder, target, form, every=0)
        assert contents(target) == expected, f"killed before step {steps}"
        assert not target.with_name(f"{steps}.partial").exists()
        if unbroken:
            break
    assert 20 < steps < 1000


SLOWLY = """
import sys, time
from pathlib import Path
from alexnet2gpu.data import growth, packing
append = growth.Growth.append
appended = 0
def slowly(self, images, *rest):
    global appended
    if not appended:
        print("begun", flush=True)
    time.sleep(0.02)
    append(self, images, *rest)
    appended += len(images)
growth.Growth.append, packing.AT_ONCE = slowly, 2
if __name__ == "__main__":
    source, target, store = sys.argv[1:]
    form = growth.Form(store, SIZE, quality=80)
    packing.pack(Path(source), Path(target), form, workers=2, every=0.02)
    print("appended", appended)
""".replace("SIZE", str(SIZE))


def packing_slowly(*arguments):
    """A process, of a group of its own, that packs the photographs in a second. It says when the
    first of them are there, and at the end how many it has written."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *map(str, arguments)], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip


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
def test_kills_at_random_moments_change_nothing_in_the_end(store, folder, packs, tmp_path):
    target, draw, sizes = tmp_path / "pack", random.Random(store), []
    for _ in range(KILLS):
        process = packing_slowly(folder, target, store)
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
    process = packing_slowly(folder, target, store)
    written = int(process.communicate()[0].split()[-1])
    assert process.returncode == 0
    assert contents(target) == contents(packs[store])
    assert written < 27, f"after kills at {sizes} bytes of labels it started from nothing"


def test_of_two_processes_one_makes_the_pack(folder, packs, tmp_path):
    both = [packing_slowly(folder, tmp_path / "pack", "raw") for _ in range(2)]
    written = [int(process.communicate()[0].split()[-1]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(written) == [0, 27]
    assert contents(tmp_path / "pack") == contents(packs["raw"])
    assert not (tmp_path / "pack.partial").exists()


def test_a_pack_goes_on_from_the_folder_by_any_of_its_names(
    folder, packs, no_processes, monkeypatch, tmp_path
):
    """Begun as --data . and gone on with by its whole path."""
    form, target = Form("raw", SIZE), tmp_path / "pack"
    with monkeypatch.context() as change, pytest.raises(Killed):
        change.chdir(folder)
        change.setattr(os, "rename", lambda *files: raise_(Killed))
        packing.pack(Path("."), target, form)
    packing.pack(folder, target, form)
    assert (target / "train.u8").read_bytes() == (packs["raw"] / "train.u8").read_bytes()


def raise_(error):
    raise error


def pack_py(*arguments):
    """launch/pack.py in this process: exit status, and what it printed on stderr."""
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            program("pack").main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            return exit_.code, stderr.getvalue()
        finally:
            signal.signal(signal.SIGTERM, before)
    return 0, stderr.getvalue()


def two_classes(folder):
    for place in ("train/a", "train/b", "val/a"):
        write(folder / place / "1.png", 0)
    return folder


MISTAKES = {
    "no val/": (
        lambda folder: shutil.rmtree(folder / "val"), [],
        "there is no val/ in it: it should have train/ and val/",
    ),
    "no classes": (lambda folder: [shutil.rmtree(file) for file in folder.glob("val/*")], [],
                   "val: has no folders in it, one for every class"),
    "a class of val/ only": (lambda folder: (folder / "val" / "c").mkdir(), [],
                             "val/c: there is no such class in train/"),
    "an empty class": (lambda folder: (folder / "train/b/1.png").unlink(), [],
                       "train/b: has no photographs"),
    "nothing in val/": (lambda folder: (folder / "val/a/1.png").unlink(), [],
                        "val: has no photographs"),
    "nothing readable": (lambda folder: (folder / "val/a/1.png").write_text("x"), [],
                         "val/ has no photograph that can be read: a/1.png: UnidentifiedImage"),
    "no pack": (lambda folder: (folder / "pack-raw-8").mkdir(), [],
                "pack-raw-8: is there, but is not a pack: choose another place with --out"),
    "a size of 0": (lambda folder: None, ["--size", 0], "--size and --workers are at least 1"),
    "no such folder": (lambda folder: None, ["--data", "nowhere"], "nowhere: there is no train/"),
}  # fmt: skip


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


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    no_processes, monkeypatch, tmp_path
):
    two_classes(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=575))
    status, printed = pack_py("--data", tmp_path, "--size", 8)  # 3 x 192 bytes
    check(status, printed, "3 images take 0.0 GB more and 0.0 are free: choose another place")
    assert not list(tmp_path.glob("*/*.u8"))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=576))
    assert pack_py("--data", tmp_path, "--size", 8)[0] == 0


@pytest.mark.parametrize("change", ["quality", "photographs"])
@pytest.mark.parametrize("moment", ["train is whole", "train is begun"])
def test_what_was_begun_in_another_way_is_not_mixed(
    change, moment, no_processes, monkeypatch, tmp_path
):
    two_classes(tmp_path)
    arguments = ["--data", tmp_path, "--size", 8, "--store", "jpeg"]
    with monkeypatch.context() as killed, pytest.raises(Killed):
        where = (os, "rename") if moment == "train is whole" else (growth.Growth, "finish")
        killed.setattr(*where, lambda *rest, **how: raise_(Killed))
        pack_py(*arguments)
    if change == "photographs":
        write(tmp_path / "train/b/2.png", 1)
    status, printed = pack_py(*arguments, "--quality", 90 if change == "photographs" else 80)
    check(status, printed, "pack-jpeg-8.partial: was begun with other photographs or in another")
    (tmp_path / "train/b/2.png").unlink(missing_ok=True)
    assert pack_py(*arguments)[0] == 0


def test_a_pack_that_has_changed_is_named(packs, tmp_path):
    shutil.copytree(packs["raw"], tmp_path / "pack")
    assert pack_py("--data", tmp_path, "--out", tmp_path / "pack", "--check") == (0, "")
    file = tmp_path / "pack" / "train.u8"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    status, printed = pack_py("--data", tmp_path, "--out", tmp_path / "pack", "--check")
    check(status, printed, "train.u8: not as it was written (crc32 ")
    file.write_bytes(content[:-1])
    size = f"{len(content) - 1:,} bytes, {len(content):,} expected: pack the folder again"
    with pytest.raises(ValueError, match=f"train.u8: has {size}"):
        pack.read_pack(tmp_path / "pack")
    file.unlink()
    with pytest.raises(ValueError, match="train.u8: is missing"):
        pack.read_pack(tmp_path / "pack")


@pytest.mark.parametrize(
    "content, complaint",
    [
        ('{"shape": [1', "val.json: unreadable: "),
        ("{}", "not a whole pack: 'shape'"),
        ("[1]", "not a whole pack: "),
    ],
)
def test_a_pack_with_another_sidecar_is_named(content, complaint, packs, tmp_path):
    shutil.copytree(packs["raw"], tmp_path / "pack")
    (tmp_path / "pack" / "val.json").write_text(content)
    with pytest.raises(ValueError) as error:
        pack.read_pack(tmp_path / "pack")
    assert complaint in str(error.value) and str(tmp_path / "pack") in str(error.value)


TERMINATED = """
import os, signal
from pathlib import Path
from alexnet2gpu.mistakes import one_line_mistakes
with one_line_mistakes():
    from alexnet2gpu.data import packing
    def check_room(*rest):
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("the disk is too small")
    packing._check_room = check_room
    packing.pack(Path("."), Path("pack"), packing.Form())
"""


def test_a_rank_that_is_ended_while_it_looks_for_mistakes_still_says_them(tmp_path):
    """torchrun ends rank 0, which prints, as soon as another rank has found the mistake."""
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED], capture_output=True, cwd=two_classes(tmp_path),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "error: the disk is too small\n")


def test_what_was_left_out_is_printed(no_processes, capsys, tmp_path):
    two_classes(tmp_path)
    for number in range(12):
        (tmp_path / "train" / "a" / f"{number:02}.txt").write_text("x")
    (tmp_path / "train" / "a" / os.fsdecode(b"-\xfc.txt")).write_text("x")
    assert pack_py("--data", tmp_path, "--size", 8, "--check")[0] == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 2 images of 2 classes, 13 left out:"
    assert "UnidentifiedImageError" in lines[1]  # its name is no UTF-8, as old archives have them
    assert lines[2].startswith("  a/00.txt: UnidentifiedImageError: ")
    assert lines[11] == f"  and others, all in {tmp_path / 'pack-raw-8' / 'train.json'}"
    assert lines[12] == "val: 1 images of 2 classes" and lines[13].endswith("as it was written")


TINY = [
    "data.name=folder", "data.size=32", "data.crop=28", "model.input=[3,28,28]", "train.batch=6",
    "train.max_steps=2",
]  # fmt: skip


def test_training_makes_the_pack_once(folder, tmp_path):
    source = shutil.copytree(folder, tmp_path / "photographs")
    overrides = [part for override in TINY for part in ("--set", override)]
    seen = []
    for run in ("first", "second"):
        train("--data", source, *overrides, "--out", tmp_path / run)
        assert metrics(tmp_path / run, "top1_error").keys() == {2}
        files = sorted((source / "pack-raw-32").iterdir())
        seen.append([(file.name, file.stat().st_mtime_ns, file.stat().st_ino) for file in files])
    assert seen[0] == seen[1] and len(seen[0]) == 7
    expected, _ = squares(source, "train", LABELS, 32)
    assert (source / "pack-raw-32" / "train.u8").read_bytes() == expected.tobytes()
    first, second = (metrics(tmp_path / run, "loss") for run in ("first", "second"))
    assert first == second


def resident():
    """Memory of this process in MB, the pages of mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_while_a_pack_larger_than_memory_is_read(packs, tmp_path):
    """100 GB of zeros that take no room on the disk. From batch 40 to batch 140, 315 MB
    of pages are copied from that were not there before."""
    folder, count = shutil.copytree(packs["raw"], tmp_path / "pack"), 508_000
    sidecar = json.loads((folder / "train.json").read_text())
    sidecar |= {"shape": [count, 256, 256, 3], "mean": None, "covariance": None}
    (folder / "train.json").write_text(json.dumps(sidecar))
    for name, size in (("train.u8", count * 256 * 256 * 3), ("train.labels.i64", count * 8)):
        (folder / name).write_bytes(b"")
        try:
            os.truncate(folder / name, size)
        except OSError:
            pytest.skip("no file of 100 GB here")
    if (folder / "train.u8").stat().st_blocks * 512 > 2**20:
        pytest.skip("this file system has no sparse files")
    crop = ["data.crop=128", "data.mean=none", "model.input=[3,128,128]", "train.batch=32"]
    config = load_config("configs/quick.yaml", crop)
    images, _ = pack.read_pack(folder)
    batches = TrainBatches(images, config, Preparation(images, config, torch.device("cpu")), 0, 1)
    held = []
    for _, number in zip(batches.epoch(1), range(140)):
        if number in (39, 139):
            held.append(resident())
    assert 100 * 32 * 128 * 256 * 3 > 300e6  # of each image, the rows of its crop
    assert held[1] - held[0] < 100, f"{held[0]:.0f} MB became {held[1]:.0f} MB"
