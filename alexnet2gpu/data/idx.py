"""The IDX format, in which MNIST and Fashion-MNIST are published: four files, gzip or plain."""

import gzip
import math
import os
from pathlib import Path

import numpy as np

from alexnet2gpu.data.images import Images
from alexnet2gpu.faults import files

IDX_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")  # the classes of Fashion-MNIST, by number
CLOTHES += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
MOST_UNPACKED = 2**28  # bytes of a compressed file, unless it has a 32nd of them; MNIST has 47 million


def read_idx(file: Path, count: int | None = None) -> np.ndarray:
    """Read a file of unsigned bytes in the IDX format, compressed or not: big-endian magic 0x0000080D for D
    dimensions, D sizes of 32 bits, the bytes. No more is read than the sizes say; nothing, if the first of
    them is not `count`.

    Raises: ValueError if it is anything else.
    """
    packed = file.suffix == ".gz"
    try:
        with open(file, "rb", opener=files.regular) as raw, gzip.open(raw) if packed else raw as opened:
            there = os.fstat(raw.fileno()).st_size
            magic = opened.read(4)
            dimensions = magic[3] if magic[:3] == b"\x00\x00\x08" and len(magic) > 3 else 0
            shape = np.frombuffer(opened.read(4 * dimensions), ">u4").tolist()
            size = math.prod(shape)
            if dimensions and size > (max(MOST_UNPACKED, 32 * there) if packed else there):
                raise ValueError(f"it says that it has {size:,} bytes, in {there:,}")
            if count not in (None, *shape[:1]):
                raise ValueError(f"{count:,} images should have as many labels, not {shape}")
            content = opened.read(size + 1)
        if dimensions and len(shape) == dimensions and len(content) == size:
            return np.frombuffer(content, np.uint8).reshape(shape)  # of so many dimensions, if numpy can
    except Exception as error:  # gzip raises whatever it likes
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
        numbers = read_idx(labels, len(pixels))
        try:
            parts.append(Images(pixels, numbers, len(CLOTHES), CLOTHES))
        except ValueError as error:
            raise ValueError(f"{images}: {error}") from None
    return tuple(parts)
