"""If these fail, training sees other photographs than lie in the folder, or under other labels.

What is expected: of ordinary photographs what Pillow makes of them one at a time, of odd ones what
a person sees, and the order and labels of torchvision.
"""

import io
import mmap
import os

import numpy as np
import pytest
from PIL import Image
from scenes import SIZE, scene, squares, write

from alexnet2gpu.data.pack import layout, packing
from alexnet2gpu.data.pack.folder import Photographs, read_folder
from alexnet2gpu.data.pack.layout import Form
from alexnet2gpu.data.pack.photograph import read_photograph


def test_order_and_labels_are_those_of_torchvision(photographs_folder):
    from torchvision.datasets import ImageFolder

    train = photographs_folder / "train"
    theirs = ImageFolder(train)
    ours = read_folder(photographs_folder).train
    _, counts = ours.listing()
    assert ours.classes == theirs.classes and counts.sum() == len(theirs)
    assert [(str(train / name), label) for name, label in ours] == theirs.samples


def test_links_are_followed_once_and_hidden_folders_are_not_entered(tmp_path):
    write(tmp_path / "elsewhere" / "far.png", 0)
    write(tmp_path / "train" / "x" / "near.png", 0)
    write(tmp_path / "train" / "x" / ".thumbs" / "small.png", 0)
    (tmp_path / "train" / "x" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "x" / "loop").symlink_to(tmp_path / "train" / "x")
    names = [name for name, _ in Photographs(tmp_path / "train", ["x"], [tmp_path / "train" / "x"])]
    assert names == ["x/near.png", "x/link/far.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path / "train" / "x" / "deep" / "far.png", 0)
    write(tmp_path / "train" / "x" / "near.png", 0)
    (tmp_path / "train" / "x" / "deep").chmod(0)
    with pytest.raises(ValueError, match="deep: cannot be read: Permission denied"):
        list(Photographs(tmp_path / "train", ["x"], [tmp_path / "train" / "x"]))
    (tmp_path / "train" / "x" / "deep").chmod(0o700)


def test_the_middle_of_a_photograph_stays(tmp_path):
    """Stripes of red, green and blue: whether they lie or stand, the square is the green one."""
    stripes = np.zeros((20, 60, 3), np.uint8)
    for colour in range(3):
        stripes[:, 20 * colour : 20 * colour + 20, colour] = 255
    for number, picture in enumerate([stripes, stripes.transpose(1, 0, 2)]):
        file = tmp_path / f"{number}.png"
        Image.fromarray(np.ascontiguousarray(picture)).save(file)
        assert (read_photograph(file, (20, 20, 3)) == [0, 255, 0]).all()
        centre = read_photograph(file, (8, 8, 3))[2:-2, 2:-2].astype(int)
        assert np.abs(centre - [0, 255, 0]).max() < 10


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path):
    """Its shorter side is more than four times the size, so half of it is decoded."""
    write(tmp_path / "train" / "x" / "large.jpg", 5, (400, 300))
    expected, _ = squares(tmp_path, "train", {"x": 0})
    read = read_photograph(tmp_path / "train" / "x" / "large.jpg", (SIZE, SIZE, 3))
    assert np.abs(read.astype(int) - expected[0]).mean() < 1


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
    save("grey8in32.tif", Image.fromarray(halves([100], [7])[:, :, 0].astype(np.int32)))
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
        "grey.png": ((100,) * 3, (7,) * 3),
        "grey8in32.tif": ((0,) * 3, (0,) * 3),  # beside one of 16 bits: one rule for the folder
        "grey16.png": ((128,) * 3, white),
        "bilevel.png": ((0,) * 3, white),
        "cmyk.jpg": ((0, 255, 255), (0,) * 3),
        "palette.png": (red, blue),
        "palette_clear.png": (red, white),
        "palette_clear.gif": (red, white),
        "rgba.png": ((204,) * 3, (200, 100, 50)),
        "grey_alpha.png": (white, (9,) * 3),
        "rgb_clear.png": (white, (4, 5, 6)),
        "turned.jpg": (red, blue),
        "animated.gif": (red, red),
    }


BROKEN = ["cut.jpg", "cut.png", "deep.tif", "empty.png", "float.tif", "renamed.jpg"]


def save_broken(folder):
    """What no person could see anything in, and files that are none of ours."""
    for ending in ("jpg", "png"):
        whole = io.BytesIO()
        Image.fromarray(scene(50, 50, 0)).save(whole, "JPEG" if ending == "jpg" else "PNG")
        (folder / f"cut.{ending}").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (folder / "empty.png").touch()
    Image.fromarray(np.ones((8, 8), np.float32)).save(folder / "float.tif")
    Image.fromarray(np.full((8, 8), 2**20, np.int32)).save(folder / "deep.tif")
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
    packing.make_pack(folder, target, Form("raw", 256), workers=1)
    return target, seen


def test_odd_files_become_what_a_person_sees(odd):
    target, seen = odd
    images, _ = layout.read_pack(target)
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
    skipped = layout.Part(target, "train").read_sidecar().skipped
    assert [name for name, _ in skipped] == [f"odd/{name}" for name in BROKEN]
    assert all(reason and "\n" not in reason for _, reason in skipped)
    assert "truncated" in dict(skipped)["odd/cut.jpg"].lower()
    assert "not whole numbers" in dict(skipped)["odd/float.tif"]
    assert "beyond 16 bits" in dict(skipped)["odd/deep.tif"]
    assert dict(skipped)["odd/renamed.jpg"] == "not an image of a known kind"
    images, test_images = layout.read_pack(target)
    assert images.labels.tolist() == [0] * len(seen) + [1]  # those after them keep theirs
    assert (images.pixels[len(seen), :, :] == [1, 2, 3]).all()
    assert len(test_images) == 1 and layout.Part(target, "val").read_sidecar().skipped == ()
    source = layout.Part(target, "train").read_sidecar().source
    assert source["photographs"] == len(seen) + 1 + len(BROKEN)


def test_an_image_of_256_pixels_starts_on_a_page(odd):
    target, seen = odd
    assert (target / "train.u8").stat().st_size == (len(seen) + 1) * 256 * 256 * 3
    assert 256 * 256 * 3 == 48 * 4096 and 256 * 256 * 3 % mmap.PAGESIZE == 0
