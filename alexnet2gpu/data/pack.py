"""A pack: a folder of photographs made ready for training, once. packing.py makes it.

    PACK/train.json       shape, classes, store, source, skipped files, checksums, RGB covariance
         train.u8         the pixels (or train.jpegs and train.offsets.i64: stores.py)
         train.labels.i64 a number for each image: the place of its class in `classes`
         train.mean.npy   (256, 256, 3) float32, the mean image; of the training images only
         val.json ...     the same of the validation images

Images are in the order of torchvision's ImageFolder: by class, then by name.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from alexnet2gpu.data.images import Images
from alexnet2gpu.data.stores import READERS, files

PARTS = ("train", "val")
KEYS = ("shape", "store", "classes", "source", "skipped", "checksums", "mean", "covariance")


def place(source: Path, store: str, size: int) -> Path:
    """Where the pack of a folder of photographs is, if it was not put elsewhere; of a pack, its
    own place."""
    return source if is_pack(source) else source / f"pack-{store}-{size}"


def is_pack(folder: Path) -> bool:
    """Whether a folder is a finished pack."""
    bases = [folder / part for part in PARTS]
    return all(sidecar_file(base).is_file() and _labels(base).is_file() for base in bases)


def read_pack(folder: Path) -> tuple[Images, Images]:
    """The training and the validation images of a pack, memory-mapped.

    Raises: ValueError naming the file, if one is missing or of another size.
    """
    return tuple(_read_part(folder, part) for part in PARTS)


def _read_part(folder, part):
    sidecar = read_sidecar(folder, part)
    base = folder / part
    shape, classes = sidecar["shape"], sidecar["classes"]
    try:
        labels = np.fromfile(_labels(base), np.int64)
        mean = np.load(mean_file(base)) if sidecar["mean"] else None
        covariance = np.array(sidecar["covariance"]) if sidecar["covariance"] else None
        pixels = READERS[sidecar["store"]](base, shape)
        return Images(pixels, labels, len(classes), tuple(classes), mean, covariance)
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: not a whole pack: {error}") from None


def read_sidecar(folder: Path, part: str) -> dict:
    """What PART.json says: all KEYS. Raises: ValueError if it is unreadable."""
    file = sidecar_file(folder / part)
    try:
        found = json.loads(file.read_text())
        return {key: found[key] for key in KEYS}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file}: unreadable: {error!r}: pack the folder again") from None


def check(folder: Path) -> None:
    """Read all of a pack and compare its checksums.

    Raises: ValueError naming the file that has changed since it was written.
    """
    for part in PARTS:
        for name, expected in read_sidecar(folder, part)["checksums"].items():
            crc = 0
            with open(folder / name, "rb") as file:
                while block := file.read(2**24):
                    crc = zlib.crc32(block, crc)
            if f"crc32 {crc:08x}" != expected:
                raise ValueError(
                    f"{folder / name}: not as it was written ({expected}, now crc32 {crc:08x}): "
                    "pack the folder again"
                )


def sidecar_file(base: Path) -> Path:
    """Where it is said what a part is; with that file, the part is whole."""
    return base.with_name(base.name + ".json")


def mean_file(base: Path) -> Path:
    """Where the mean image is."""
    return base.with_name(base.name + ".mean.npy")


def _labels(base):
    return base.with_name(base.name + ".labels.i64")


def all_files(store: str, base: Path) -> list[Path]:
    """The files that grow with every image: pixels first, labels last."""
    return [*files(store, base), _labels(base)]
