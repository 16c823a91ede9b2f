"""A pack: a folder of photographs made ready for training, once. packing.py makes it.

    PACK/train.json       shape, classes, store, source, skipped files, checksums, RGB covariance;
                          sealed (faults/files.py)
         train.u8         the pixels (or train.jpegs and train.offsets.i64: stores.py)
         train.sums.u32   the CRC-32 of each image, as it is in the file
         train.labels.i64 a number for each image: the index of its class in `classes`
         train.mean.npy   (256, 256, 3) float32, the mean image; of the training images only
         val.json ...     the same of the validation images

Images are in the order of torchvision's ImageFolder: by class, then by name. When a pack is opened, all but
the pixels are compared with their checksums; an image is when it is first read.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from alexnet2gpu.config.schema import bounded, build_section
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.pack.stores import STORES, StoredPixels
from alexnet2gpu.faults import files

PARTS = ("train", "val")


@dataclass(frozen=True)
class Form:
    """What a pack is made of: store `raw` or `jpeg`, the side of its images, JPEG's quality; 3 channels, or 1
    of grey; how many bits deep grey has, if that is not to be found out."""

    store: str = "raw"
    size: int = 256
    quality: int = 90
    channels: int = 3
    grey_bits: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return self.size, self.size, self.channels


@dataclass
class Sidecar:
    """What a part's sidecar says."""

    shape: tuple[int, int, int, int] = bounded(least=1)  # (N, H, W, C)
    store: Literal["raw", "jpeg"]
    source: dict[str, str | int]  # which photographs, in which form
    checksums: dict[str, str]  # of each file, by its name
    mean: str | None  # its file
    covariance: tuple[tuple[float, ...], ...] | None
    skipped: tuple[tuple[str, str], ...]  # of each photograph left out: name, reason
    classes: tuple[str, ...]


class Part:
    """The files of one of PARTS: `folder`/`name` and an ending each. With its sidecar, it is whole."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.sidecar, self.mean = self.file(".json"), self.file(".mean.npy")
        self.sums, self.labels = self.file(".sums.u32"), self.file(".labels.i64")

    def file(self, ending: str) -> Path:
        """The one of that ending."""
        return self.folder / f"{self.name}{ending}"

    def read_sidecar(self) -> Sidecar:
        """What the sidecar says. Raises: ValueError if it is unreadable or was changed."""
        try:
            return build_section(Sidecar, files.read_sealed(self.sidecar), self.sidecar.name)
        except ValueError as error:
            raise ValueError(f"{self.folder}: unreadable: {error}: pack the folder again") from None

    def read_images(self) -> Images:
        """Its images, whose pixels are read from the disk as they are needed. Raises: ValueError naming the
        file, if one is missing, of another size or was changed; of an image, when it is read."""
        about = self.read_sidecar()
        shape, store, classes = about.shape, about.store, about.classes
        try:
            self.compare_checksums(about, with_pixels=False)
            labels = np.frombuffer(files.read_file(self.labels, 8 * shape[0]), np.int64)
            sums = np.frombuffer(files.read_file(self.sums, 4 * shape[0]), np.uint32)
            most = 4 * math.prod(shape[1:]) + 2**16  # numpy's header
            mean = np.load(io.BytesIO(files.read_file(self.mean, most))) if about.mean else None
            covariance = np.array(about.covariance) if about.covariance else None
            pixels = StoredPixels(store, [self.file(ending) for ending in STORES[store]], shape, sums)
            listing, bits = str(about.source.get("listing")), int(about.source.get("grey_bits", 16))
            return Images(pixels, labels, len(classes), classes, mean, covariance, listing, bits)
        except Exception as error:  # numpy raises whatever it likes
            said = str(error)[:500]
            raise ValueError(f"{self.folder}: not a whole pack: {said}: pack the folder again") from None

    def compare_checksums(self, about: Sidecar, with_pixels: bool = True) -> None:
        """Raises: ValueError or LookupError, if a file has another checksum than its sidecar says, or is
        missing."""
        pixels, *others = [self.file(ending) for ending in STORES[about.store]]
        others += [self.sums, self.labels] + [self.mean] * bool(about.mean)
        for file in [pixels] * with_pixels + others:
            files.compare_checksum(file, about.checksums[file.name])


def parts_of(folder: Path) -> list[Part]:
    """Those of a pack; one may have been made to test only."""
    parts = [Part(folder, name) for name in PARTS]
    return parts if parts[0].sidecar.is_file() else parts[1:]


def pack_of(source: Path, form: Form, to_test: bool = False) -> Path:
    """The pack of a folder of photographs, unless --out put it elsewhere; of a pack, itself."""
    kind = "pack-test" if to_test else "pack"
    name = f"{kind}-{form.store}-{form.size}{'-grey' * (form.channels == 1)}"
    if to_test and form.grey_bits not in (None, 16):
        name += f"-of-{form.grey_bits}-bits"
    return source if is_pack(source) else source / name


def is_pack(folder: Path) -> bool:
    """Whether a folder is a finished pack."""
    return all(part.sidecar.is_file() and part.labels.is_file() for part in parts_of(folder))


def read_pack(folder: Path) -> tuple[Images, ...]:
    """The images of each part of a pack. Raises: ValueError, as Part.read_images."""
    return tuple(part.read_images() for part in parts_of(folder))


def check_pack(folder: Path) -> None:
    """Read all of a pack. Raises: ValueError naming the file that has changed since it was written."""
    for part in parts_of(folder):
        about = part.read_sidecar()
        try:
            part.compare_checksums(about)
        except (ValueError, LookupError) as error:
            raise ValueError(f"{folder}: {error}: pack the folder again") from None
