"""The IDX format, in which MNIST and Fashion-MNIST are published: four files, gzip or plain."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from alexnet2gpu.data.images import Images

IDX_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
IDX_LARGEST = 2**32  # bytes; MNIST has 47 million


def read_idx(file: Path) -> np.ndarray:
    """Read a file of unsigned bytes in the IDX format, compressed or not: big-endian magic 0x0000080D for D
    dimensions, D sizes of 32 bits, the bytes. No more is unpacked than the sizes say.

    Raises: ValueError if it is anything else.
    """
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as opened:
            magic = opened.read(4)
            dimensions = magic[3] if magic[:3] == b"\x00\x00\x08" and len(magic) > 3 else 0
            shape = np.frombuffer(opened.read(4 * dimensions), ">u4").tolist()
            size = math.prod(shape)
            if size > IDX_LARGEST:
                raise ValueError(f"it says that it has {size:,} bytes")
            content = opened.read(size + 1)
        if dimensions and len(shape) == dimensions and len(content) == size:
            return np.frombuffer(content, np.uint8).reshape(
                shape
            )  # fails if numpy has not so many dimensions
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{file}: unreadable: {error}") from None
    raise ValueError(f"{file}: not an IDX file of bytes, or cut short")


def read_idx_folder(folder: Path) -> tuple[Images, Images]:
    """The training and the test images of a folder that holds the four IDX_FILES, compressed or not, itself
    or where torchvision puts them. Raises: ValueError naming the file."""
    files, folders = [], (folder / "FashionMNIST" / "raw", folder)
    for name in IDX_FILES:
        candidates = [inside / file for inside in folders for file in (name, f"{name}.gz")]
        found = next(filter(Path.is_file, candidates), None)
        if found is None:
            raise ValueError(f"--data {folder}: no {name} or {name}.gz in it")
        files.append(found)
    parts = []
    for images, labels in (files[:2], files[2:]):
        pixels = read_idx(images)
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        try:
            parts.append(Images(pixels, read_idx(labels).astype(np.int64), classes=10))
        except ValueError as error:
            raise ValueError(f"{images}: {error}") from None
    return tuple(parts)
