"""How a pack keeps pixels: two files to append to, two readers that look alike.

    raw     NAME.u8              every pixel: an image of 256x256 has 196,608 bytes, or 48 pages,
                                 and starts on one; copied from the mapping, the fastest
    jpeg    NAME.jpegs           JPEG strings one after another: about a tenth of it, decoded as
            NAME.offsets.i64     they are read; where each starts and ends

A reader has `shape` (N, H, W, C) and `dtype`, and gives the pixels `[i, rows]` (h, W, C) of image
i, or `[i, rows, columns]`, to several threads at once.
"""

import io
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

READ_AT_ONCE = 2**26  # bytes of a mapping that may stay resident


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


class RawPixels:
    """The reader of a raw store.

    Pages that were read stay with the system as long as it has room for them, but count as this
    process's memory only until so many bytes have been read: 250 GB may pass through it.

    Raises: ValueError if the file has not the size of `shape`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, base: Path, shape: Sequence[int]):
        file, self.shape = files("raw", base)[0], tuple(shape)
        count, height, width, channels = self.shape
        self._image = height * width * channels
        _check_size(file, count * self._image)
        with open(file, "rb") as opened:
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):  # else much of what lies around an image is read too
            self._map.madvise(mmap.MADV_RANDOM)
        self._pixels = np.frombuffer(self._map, np.uint8).reshape(self.shape)
        self._read = 0

    def __getitem__(self, place):
        self._read += self._image
        if self._read > READ_AT_ONCE and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)  # another thread's page comes back by itself
            self._read = 0
        if isinstance(place, tuple) and hasattr(mmap, "MADV_WILLNEED"):
            first = place[0] * self._image  # ask the disk for it at once, not page by page
            start = first - first % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, first + self._image - start)
        return self._pixels[place]


class JpegPixels:
    """The reader of a jpeg store. Raises: ValueError if its files do not fit each other."""

    dtype = np.dtype(np.uint8)

    def __init__(self, base: Path, shape: Sequence[int]):
        (file, where), self.shape = files("jpeg", base), tuple(shape)
        _check_size(where, 8 * (self.shape[0] + 1))
        self._offsets = np.fromfile(where, np.int64)  # 10 MB for ImageNet
        _check_size(file, int(self._offsets[-1]))
        with open(file, "rb") as opened:
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    def __getitem__(self, place):
        i, *inside = place
        return decode(self._map[self._offsets[i] : self._offsets[i + 1]])[tuple(inside)]


READERS = {"raw": RawPixels, "jpeg": JpegPixels}


def files(store: str, base: Path) -> list[Path]:
    """The files of a store whose names start with `base`."""
    endings = {"raw": [".u8"], "jpeg": [".jpegs", ".offsets.i64"]}[store]
    return [base.with_name(base.name + ending) for ending in endings]


def _check_size(file, expected):
    size = file.stat().st_size if file.is_file() else None
    if size != expected:
        found = "is missing" if size is None else f"has {size:,} bytes"
        raise ValueError(f"{file}: {found}, {expected:,} expected: pack the folder again")
