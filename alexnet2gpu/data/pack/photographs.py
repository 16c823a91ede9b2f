"""A folder of photographs as torchvision's ImageFolder reads it, and one photograph of it.

    FOLDER/train/CLASS/*      every class has a folder here, with one photograph at least
    FOLDER/val/CLASS/*        the same classes, or some of them

A label is the index of its class among the folders of train/, by name. Files and folders whose names start
with a dot do not count; all other files, also in folders of a class's folder, are expected to be photographs.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet2gpu.faults import files

# What Pillow reads itself: for PostScript it runs Ghostscript. TGA comes last, having no mark of its own.
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "MPO", "PPM", "ICO", "DDS", "PCX")
KINDS += ("QOI", "SGI", "TGA")
MOST_PIXELS = 2.5e7  # of a file of 10 MB or less, and so on: JPEG 2000 takes 18 bytes each, meanwhile


def classes_of(source: Path) -> list[str]:
    """The names of the class folders of train/, sorted.

    Raises: ValueError if train/ or val/ is missing or empty, or if val/ has a class of its own.
    """
    found = {}
    for part in ("train", "val"):
        folder = source / part
        if not folder.is_dir():
            raise ValueError(
                f"--data {source}: there is no {part}/ in it: it should have train/ and val/, each with a "
                "folder of photographs for every class"
            )
        entries = [entry for entry in os.scandir(folder) if entry.is_dir()]
        found[part] = sorted(entry.name for entry in entries if entry.name[0] != ".")
        if not found[part]:
            raise ValueError(f"{folder}: has no folders in it, one for every class")
    for name in found["train"]:
        if os.fsencode(name) != name.encode(errors="replace"):
            raise ValueError(f"{source / 'train'}/{name!r}: a name that is not of UTF-8: rename it")
    if unknown := sorted(set(found["val"]) - set(found["train"])):
        raise ValueError(f"{source / 'val' / unknown[0]}: there is no such class in train/")
    return found["train"]


class Photographs:
    """Those of one part as (path below `folder`, label), class by class; only one class's names are in
    memory at a time. Raises: ValueError if there are none, in the whole part or in a class of train/, or if
    a folder cannot be read."""

    def __init__(self, folder: Path, classes: list[str]):
        self.folder, self.classes = folder, classes
        digest, self.count = hashlib.sha256(), 0
        for name, label in self:
            digest.update(os.fsencode(f"{name}\0{label}\0"))
            self.count += 1
        self.listing = digest.hexdigest()  # a checksum of all names and labels
        if not self.count:
            raise ValueError(f"{folder}: has no photographs")

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for label, name in enumerate(self.classes):
            top = self.folder / name
            found = sorted(_files_of(top)) if top.is_dir() else []  # val/ need not have all classes
            if not found and self.folder.name == "train":
                raise ValueError(f"{top}: has no photographs")
            for folder, file in found:
                yield os.path.relpath(os.path.join(folder, file), self.folder), label


def _files_of(top):
    """(folder, name) of each file at any depth, links followed, but no folder entered twice."""
    entered = set()
    for folder, folders, names in os.walk(top, onerror=_raise_unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from ((folder, name) for name in names if name[0] != ".")


def _raise_unreadable(error):
    raise ValueError(f"{error.filename}: cannot be read: {error.strerror}") from None


def read_square(file: Path, size: int) -> np.ndarray:
    """Read a photograph as RGB, scale its shorter side to `size`, crop its centre.

    Grey, CMYK, 16-bit and palette images become RGB, transparency is laid on white, and what a camera marked
    as turned is turned back; of an animation, the first picture. Scaling is Lanczos with as many taps as it
    takes, so nothing aliases. (The code of 2014 averaged areas; what scaled the images of 2012 is not
    known.)

    Returns: (size, size, 3) uint8. Raises: an exception of many possible kinds, if Pillow can not read the
    file."""
    from PIL import Image, ImageOps

    Image.init()
    known = [kind for kind in KINDS if kind in Image.OPEN]
    with open(file, "rb", opener=files.regular) as opened, Image.open(opened, formats=known) as image:
        image.draft("RGB", (2 * size, 2 * size))  # a JPEG may be decoded at half its size or less
        if image.width * image.height > max(MOST_PIXELS, 2.5 * os.fstat(opened.fileno()).st_size):
            raise ValueError(f"{image.width}x{image.height} pixels, more than a file of its size should have")
        ImageOps.exif_transpose(image, in_place=True)
        image = _to_rgb(image)
        width, height = image.size
        side = min(width, height)  # of the square that stays
        left, top = (width - side) / 2, (height - side) / 2
        box = left, top, left + side, top + side
        return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def _to_rgb(image):
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, as PNG and TIFF have them, or 8 in 16
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("grey values beyond 16 bits")
        image = Image.fromarray((values >> 8 * (values.max() > 255)).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("grey values that are not whole numbers")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
