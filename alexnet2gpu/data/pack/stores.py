"""The two stores of a pack's pixels: files to append to, read as if they were an array.

    raw     NAME.u8              every pixel: an image of 256x256 has 196,608 bytes, or 48 pages,
                                 and starts on one: the fastest
    jpeg    NAME.jpegs           JPEG strings one after another: about a tenth of it, decoded as
            NAME.offsets.i64     they are read; where each starts and ends

growth.py writes them.
"""

import io
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet2gpu.config.text import shape_text
from alexnet2gpu.faults import files

# Store -> ending of each of its files -> what the file starts with; the first has the pixels.
STORES = {"raw": {".u8": b""}, "jpeg": {".jpegs": b"", ".offsets.i64": bytes(8)}}


def decode_jpeg(string: bytes, shape: Sequence[int]) -> np.ndarray:
    """A JPEG string -> (H, W, C) uint8, of that shape, C 3 or 1. Raises: an exception of many possible
    kinds, if it is anything else."""
    from PIL import Image  # here, since most data sets do without

    with Image.open(io.BytesIO(string), formats=["JPEG"]) as image:
        if (image.height, image.width) != tuple(shape[:2]):  # before it is unpacked
            raise ValueError(f"it has {image.height}x{image.width} pixels")
        return np.asarray(image.convert("L" if shape[2] == 1 else "RGB")).reshape(shape)


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """(H, W, C) uint8, C 3 or 1 -> a JPEG string."""
    from PIL import Image

    string = io.BytesIO()
    pixels = pixels.squeeze(2) if pixels.shape[2] == 1 else pixels
    Image.fromarray(pixels).save(string, "JPEG", quality=quality)
    return string.getvalue()


def blocks_of(store: str, images: Sequence[bytes], end: int) -> dict[str, bytes]:
    """Ending -> what is appended for some images, if the file of the pixels has `end` bytes."""
    pixels = b"".join(images)
    if store == "raw":
        return {".u8": pixels}
    ends = end + np.cumsum([len(string) for string in images])
    return {".jpegs": pixels, ".offsets.i64": ends.tobytes()}


class StoredPixels:
    """The pixels of images, of `shape` (N, H, W, C): `[i, rows]` of image i (h, W, C), or `[i, rows,
    columns]`, for several threads at once. The first time, an image is compared with its CRC-32 in `sums`
    (N,) uint32.

    `paths` are in the order of STORES. They are not mapped into memory: reading what is lost is an error
    then, not the end of the process, and 250 GB may pass through it without counting as its memory.

    Raises: ValueError if a file is of another size or there are not so many checksums; of an image, when it
        is read, if it was changed or is no JPEG of that shape."""

    dtype = np.dtype(np.uint8)

    def __init__(self, store: str, paths: Sequence[Path], shape: Sequence[int], sums: np.ndarray):
        self.file, self.store, self.shape, self.sums = paths[0], store, tuple(shape), sums
        count, image_bytes = self.shape[0], math.prod(self.shape[1:])
        if len(sums) != count:
            raise ValueError(f"{self.file.name}: {count} images, but {len(sums)} checksums")
        if store == "raw":
            self.offsets = range(0, (count + 1) * image_bytes, image_bytes)
        else:
            size = 8 * (count + 1)  # 10 MB for ImageNet
            _check_size(paths[1], size)
            self.offsets = np.frombuffer(files.read_file(paths[1], size), np.int64)
            if self.offsets[0] != 0 or (self.offsets[1:] <= self.offsets[:-1]).any():
                raise ValueError(f"{paths[1]}: strings should follow each other")
        _check_size(self.file, int(self.offsets[-1]))
        self.opened = open(self.file, "rb", buffering=0, opener=files.regular)
        self.seen = np.zeros(count, bool)
        if hasattr(os, "posix_fadvise"):  # else the disk reads much of what lies around an image
            os.posix_fadvise(self.opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def __getitem__(self, index):
        i, *inside = index
        content = self._read_image(i)
        if self.store == "raw":
            return np.frombuffer(content, np.uint8).reshape(self.shape[1:])[tuple(inside)]
        try:
            image = decode_jpeg(content, self.shape[1:])
        except Exception as error:  # Pillow raises whatever it likes
            wanted = f"no JPEG of {shape_text(self.shape[1:3])} pixels"
            raise ValueError(f"{self.file}: image {i} is {wanted}: pack the folder again ({error})") from None
        return image[tuple(inside)]

    def _read_image(self, i):
        first, last = int(self.offsets[i]), int(self.offsets[i + 1])
        try:
            content = os.pread(self.opened.fileno(), last - first, first)
        except OSError as error:
            raise ValueError(f"{self.file}: image {i} cannot be read: {error}") from None
        whole = len(content) == last - first
        if not whole or not (self.seen[i] or zlib.crc32(content) == self.sums[i]):
            raise ValueError(f"{self.file}: image {i} is not as it was written: pack the folder again")
        self.seen[i] = True
        return content


def _check_size(file, expected):
    size = file.stat().st_size if file.is_file() else None
    if size != expected:
        found = "is missing" if size is None else f"has {size:,} bytes"
        raise ValueError(f"{file}: {found}, {expected:,} expected: pack the folder again")
