"""A pack: a folder of photographs made ready for training, once. packing.py makes it.

    PACK/train.json       shape, classes, store, source, skipped files, checksums, RGB covariance;
                          sealed (files.py)
         train.u8         the pixels (or train.jpegs and train.offsets.i64: stores.py)
         train.sums.u32   the CRC-32 of each image, as it is in the file
         train.labels.i64 a number for each image: the place of its class in `classes`
         train.mean.npy   (256, 256, 3) float32, the mean image; of the training images only
         val.json ...     the same of the validation images

Images are in the order of torchvision's ImageFolder: by class, then by name. When a pack is
opened, all but the pixels are compared with their checksums; an image is when it is first read.
"""

from pathlib import Path

import numpy as np

from alexnet2gpu.faults import files
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.pack.stores import READERS, store_files

PARTS = ("train", "val")
KEYS = ("shape", "store", "classes", "source", "skipped", "checksums", "mean", "covariance")


def pack_of(source: Path, store: str, size: int) -> Path:
    """Where the pack of a folder of photographs is, if it was not put elsewhere; of a pack, its
    own place."""
    return source if is_pack(source) else source / f"pack-{store}-{size}"


def is_pack(folder: Path) -> bool:
    """Whether a folder is a finished pack."""
    bases = [folder / part for part in PARTS]
    return all(sidecar_file(base).is_file() and _labels(base).is_file() for base in bases)


def read_pack(folder: Path) -> tuple[Images, Images]:
    """The training and the validation images of a pack, read from the disk as they are needed.

    Raises: ValueError naming the file, if one is missing, of another size or was changed; of an
        image, when it is read.
    """
    return tuple(_read_part(folder, part) for part in PARTS)


def _read_part(folder, part):
    sidecar = read_sidecar(folder, part)
    base = folder / part
    shape, classes = sidecar["shape"], sidecar["classes"]
    try:
        for file in _parts(sidecar, base)[1:]:  # the first has the pixels
            files.check(file, sidecar["checksums"][file.name])
        labels = np.fromfile(_labels(base), np.int64)
        mean = np.load(mean_file(base), allow_pickle=False) if sidecar["mean"] else None
        covariance = np.array(sidecar["covariance"]) if sidecar["covariance"] else None
        sums = np.fromfile(_sums(base), np.uint32)
        pixels = READERS[sidecar["store"]](base, shape, sums)
        return Images(pixels, labels, len(classes), tuple(classes), mean, covariance)
    except (OSError, EOFError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: not a whole pack: {error}: pack the folder again") from None


def read_sidecar(folder: Path, part: str) -> dict:
    """What PART.json says: all KEYS. Raises: ValueError if it is unreadable or was changed."""
    try:
        found = files.read_sealed(sidecar_file(folder / part))
        return {key: found[key] for key in KEYS}
    except (ValueError, LookupError) as error:
        raise ValueError(f"{folder}: unreadable: {error}: pack the folder again") from None


def check(folder: Path) -> None:
    """Read all of a pack and compare its checksums.

    Raises: ValueError naming the file that has changed since it was written.
    """
    for part in PARTS:
        sidecar = read_sidecar(folder, part)
        for file in _parts(sidecar, folder / part):
            try:
                files.check(file, sidecar["checksums"][file.name])
            except (ValueError, LookupError) as error:
                raise ValueError(f"{folder}: {error}: pack the folder again") from None


def _parts(sidecar, base):
    """All files of a part but the sidecar; pixels first."""
    mean = [mean_file(base)] if sidecar["mean"] else []
    return [*all_files(sidecar["store"], base), *mean]


def sidecar_file(base: Path) -> Path:
    """Where it is said what a part is; with that file, the part is whole."""
    return base.with_name(base.name + ".json")


def mean_file(base: Path) -> Path:
    """Where the mean image is."""
    return base.with_name(base.name + ".mean.npy")


def _labels(base):
    return base.with_name(base.name + ".labels.i64")


def _sums(base):
    return base.with_name(base.name + ".sums.u32")


def all_files(store: str, base: Path) -> list[Path]:
    """The files that grow with every image: pixels first, labels last."""
    return [*store_files(store, base), _sums(base), _labels(base)]
