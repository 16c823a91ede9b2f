"""A pack: a folder of photographs made ready for training, once. packing.py makes it.

    PACK/train.json       shape, classes, store, source, skipped files, checksums, RGB covariance;
                          sealed (faults/files.py)
         train.u8         the pixels (or train.jpegs and train.offsets.i64: stores.py)
         train.sums.u32   the CRC-32 of each image, as it is in the file
         train.labels.i64 a number for each image: the place of its class in `classes`
         train.mean.npy   (256, 256, 3) float32, the mean image; of the training images only
         val.json ...     the same of the validation images

Images are in the order of torchvision's ImageFolder: by class, then by name. When a pack is
opened, all but the pixels are compared with their checksums; an image is when it is first read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet2gpu.data.images import Images
from alexnet2gpu.data.pack.stores import READERS, heads
from alexnet2gpu.faults import files

PARTS = ("train", "val")
KEYS = ("shape", "store", "classes", "source", "skipped", "checksums", "mean", "covariance")


@dataclass(frozen=True)
class Part:
    """The files of one of PARTS: `folder`/`name` and an ending each.

    sidecar   says what the part is; with it, the part is whole
    mean      the mean image
    sums, labels, and those of its store grow with every image
    """

    folder: Path
    name: str

    def file(self, ending: str) -> Path:
        """The one of that ending."""
        return self.folder / f"{self.name}{ending}"

    @property
    def sidecar(self) -> Path:
        return self.file(".json")

    @property
    def mean(self) -> Path:
        return self.file(".mean.npy")

    @property
    def sums(self) -> Path:
        return self.file(".sums.u32")

    @property
    def labels(self) -> Path:
        return self.file(".labels.i64")

    def stored(self, store: str) -> list[Path]:
        """Those of its store; the first has the pixels."""
        return [self.file(ending) for ending in heads(store)]

    def read_sidecar(self) -> dict:
        """What it says: all KEYS. Raises: ValueError if it is unreadable or was changed."""
        try:
            found = files.read_sealed(self.sidecar)
            return {key: found[key] for key in KEYS}
        except (ValueError, LookupError) as error:
            said = f"{self.folder}: unreadable: {error}: pack the folder again"
            raise ValueError(said) from None

    def read(self) -> Images:
        """Its images, whose pixels are read from the disk as they are needed.

        Raises: ValueError naming the file, if one is missing, of another size or was changed; of
            an image, when it is read.
        """
        about = self.read_sidecar()
        shape, classes = about["shape"], about["classes"]
        try:
            self.compare(about, pixels=False)
            labels, sums = np.fromfile(self.labels, np.int64), np.fromfile(self.sums, np.uint32)
            mean = np.load(self.mean, allow_pickle=False) if about["mean"] else None
            covariance = np.array(about["covariance"]) if about["covariance"] else None
            pixels = READERS[about["store"]](self.stored(about["store"]), shape, sums)
            return Images(pixels, labels, len(classes), tuple(classes), mean, covariance)
        except (OSError, EOFError, LookupError, TypeError, ValueError) as error:
            said = f"{self.folder}: not a whole pack: {error}: pack the folder again"
            raise ValueError(said) from None

    def compare(self, about: dict, pixels: bool = True) -> None:
        """Compare its files, with or without the `pixels`, with the checksums of its sidecar.

        Raises: ValueError or LookupError, if one has changed or is missing.
        """
        mean = [self.mean] if about["mean"] else []
        for file in [*self.stored(about["store"])[not pixels :], self.sums, self.labels, *mean]:
            files.compare_checksum(file, about["checksums"][file.name])


def parts_of(folder: Path) -> list[Part]:
    """Those of a pack."""
    return [Part(folder, name) for name in PARTS]


def pack_of(source: Path, store: str, size: int) -> Path:
    """Where the pack of a folder of photographs is, if it was not put elsewhere; of a pack, its
    own place."""
    return source if is_pack(source) else source / f"pack-{store}-{size}"


def is_pack(folder: Path) -> bool:
    """Whether a folder is a finished pack."""
    return all(part.sidecar.is_file() and part.labels.is_file() for part in parts_of(folder))


def read_pack(folder: Path) -> tuple[Images, Images]:
    """The training and the validation images of a pack. Raises: ValueError, as Part.read."""
    return tuple(part.read() for part in parts_of(folder))


def check_pack(folder: Path) -> None:
    """Read all of a pack and compare its checksums.

    Raises: ValueError naming the file that has changed since it was written.
    """
    for part in parts_of(folder):
        about = part.read_sidecar()
        try:
            part.compare(about)
        except (ValueError, LookupError) as error:
            raise ValueError(f"{folder}: {error}: pack the folder again") from None
