"""How a pack keeps pixels: two files to append to, two readers that look alike.

    raw     NAME.u8              every pixel: an image of 256x256 has 196,608 bytes, or 48 pages,
                                 and starts on one: the fastest
    jpeg    NAME.jpegs           JPEG strings one after another: about a tenth of it, decoded as
            NAME.offsets.i64     they are read; where each starts and ends

A reader has `shape` (N, H, W, C) and `dtype`, and gives the pixels `[i, rows]` (h, W, C) of image
i, or `[i, rows, columns]`, to several threads at once. Writing is growth.py's.
"""

import io
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def decode(string: bytes) -> np.ndarray:
    """A JPEG string -> (H, W, 3) uint8."""
    from PIL import Image  # here, since most data sets do without

    return np.asarray(Image.open(io.BytesIO(string)).convert("RGB"))


def encode(pixels: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 -> a JPEG string."""
    from PIL import Image

    string = io.BytesIO()
    Image.fromarray(pixels).save(string, "JPEG", quality=quality)
    return string.getvalue()


class _Stored:
    """The file with the pixels of N images, read from anywhere in it, at first with a look at the
    checksum of each. Not mapped into memory: reading what is lost is an error then, not the end of
    the process, and 250 GB may pass through it without counting as its memory.

    Raises: ValueError if the file has not the expected size or so many checksums.
    """

    def __init__(self, file: Path, size: int, sums: np.ndarray):
        _check_size(file, size)
        self.file, self.sums = file, sums
        self.opened = open(file, "rb", buffering=0)
        self.seen = np.zeros(len(sums), bool)
        if hasattr(os, "posix_fadvise"):  # else the disk reads much of what lies around an image
            os.posix_fadvise(self.opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, i: int, first: int, last: int) -> bytes:
        """Bytes `first` to `last`, which are image i. Raises: ValueError if they were changed."""
        try:
            content = os.pread(self.opened.fileno(), last - first, first)
        except OSError as error:
            raise ValueError(f"{self.file}: image {i} cannot be read: {error}") from None
        whole = len(content) == last - first
        if not whole or not (self.seen[i] or zlib.crc32(content) == self.sums[i]):
            raise ValueError(f"{self.file}: image {i} is not as it was written: pack the folder again")
        self.seen[i] = True
        return content


class RawPixels:
    """The reader of a raw store.

    Args:
        files: of the store, in the order of `heads`.
        shape: (N, H, W, C).
        sums: (N,) uint32, the CRC-32 of each image.

    Raises: ValueError if the file has not the size of `shape`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[Path], shape: Sequence[int], sums: np.ndarray):
        (file,), self.shape = files, tuple(shape)
        count, *self._image = self.shape
        self._bytes = math.prod(self._image)
        _check_count(file, sums, count)
        self._stored = _Stored(file, count * self._bytes, sums)

    def __getitem__(self, index):
        i, *inside = index
        content = self._stored.read(i, i * self._bytes, (i + 1) * self._bytes)
        return np.frombuffer(content, np.uint8).reshape(self._image)[tuple(inside)]


class JpegPixels:
    """The reader of a jpeg store; the same, and later ValueError if a string is no JPEG of that
    shape."""

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[Path], shape: Sequence[int], sums: np.ndarray):
        (self._file, where), self.shape = files, tuple(shape)
        _check_count(self._file, sums, self.shape[0])
        _check_size(where, 8 * (self.shape[0] + 1))
        self._offsets = np.fromfile(where, np.int64)  # 10 MB for ImageNet
        if self._offsets[0] != 0 or (np.diff(self._offsets) <= 0).any():
            raise ValueError(f"{where}: strings should follow each other")
        self._stored = _Stored(self._file, int(self._offsets[-1]), sums)

    def __getitem__(self, index):
        i, *inside = index
        string = self._stored.read(i, *self._offsets[i : i + 2].tolist())
        try:
            image = decode(string)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._file}: image {i} is no JPEG: pack the folder again ({error})") from None
        if image.shape != self.shape[1:]:
            raise ValueError(f"{self._file}: image {i} is {image.shape}: pack the folder again")
        return image[tuple(inside)]


READERS = {"raw": RawPixels, "jpeg": JpegPixels}


def heads(store: str) -> dict[str, bytes]:
    """Ending -> what the store's file of that ending starts with; the first has the pixels."""
    return {"raw": {".u8": b""}, "jpeg": {".jpegs": b"", ".offsets.i64": bytes(8)}}[store]


def blocks(store: str, images: Sequence[bytes], end: int) -> dict[str, bytes]:
    """Ending -> what is appended for some images, if the file of the pixels has `end` bytes."""
    pixels = b"".join(images)
    if store == "raw":
        return {".u8": pixels}
    ends = end + np.cumsum([len(string) for string in images])
    return {".jpegs": pixels, ".offsets.i64": ends.tobytes()}


def _check_size(file, expected):
    size = file.stat().st_size if file.is_file() else None
    if size != expected:
        found = "is missing" if size is None else f"has {size:,} bytes"
        raise ValueError(f"{file}: {found}, {expected:,} expected: pack the folder again")


def _check_count(file, sums, count):
    if len(sums) != count:
        raise ValueError(f"{file.name}: {count} images, but {len(sums)} checksums")
