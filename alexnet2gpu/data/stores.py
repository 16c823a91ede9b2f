"""How a pack keeps pixels: two files to append to, two readers that look alike.

    raw     NAME.u8              every pixel: an image of 256x256 has 196,608 bytes, or 48 pages,
                                 and starts on one; copied from the mapping, the fastest
    jpeg    NAME.jpegs           JPEG strings one after another: about a tenth of it, decoded as
            NAME.offsets.i64     they are read; where each starts and ends

A reader has `shape` (N, H, W, C) and `dtype`, and gives the pixels `[i, rows]` (h, W, C) of image
i, or `[i, rows, columns]`, to several threads at once. Writing is growth.py's.
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


class _Mapping:
    """A file of a store, read in pieces from anywhere in it.

    Pages that were read stay with the system as long as it has room for them, but count as this
    process's memory only until so many bytes have been read: 250 GB may pass through it.

    Raises: ValueError if the file has not the expected size.
    """

    def __init__(self, file: Path, size: int):
        _check_size(file, size)
        with open(file, "rb") as opened:
            self.bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._advise("MADV_RANDOM")  # else much of what lies around an image is read too
        self._read = 0

    def announce(self, first: int, last: int) -> None:
        """Bytes `first` to `last` come next: ask the disk for all at once, not page by page."""
        self._read += last - first
        if self._read > READ_AT_ONCE:
            self._advise("MADV_DONTNEED")  # another thread's page comes back by itself
            self._read = 0
        start = first - first % mmap.PAGESIZE
        self._advise("MADV_WILLNEED", start, last - start)

    def _advise(self, advice, *where):
        if hasattr(mmap, advice):  # not every system has all of them
            self.bytes.madvise(getattr(mmap, advice), *where)


class RawPixels:
    """The reader of a raw store. Raises: ValueError if the file has not the size of `shape`."""

    dtype = np.dtype(np.uint8)

    def __init__(self, base: Path, shape: Sequence[int]):
        self.shape = tuple(shape)
        count, height, width, channels = self.shape
        self._image = height * width * channels  # bytes
        self._mapping = _Mapping(files("raw", base)[0], count * self._image)
        self._pixels = np.frombuffer(self._mapping.bytes, np.uint8).reshape(self.shape)

    def __getitem__(self, place):
        first = place[0] * self._image
        self._mapping.announce(first, first + self._image)
        return self._pixels[place]


class JpegPixels:
    """The reader of a jpeg store. Raises: ValueError if its files do not fit each other, or later
    if a string in them is no JPEG."""

    dtype = np.dtype(np.uint8)

    def __init__(self, base: Path, shape: Sequence[int]):
        (self._file, where), self.shape = files("jpeg", base), tuple(shape)
        _check_size(where, 8 * (self.shape[0] + 1))
        self._offsets = np.fromfile(where, np.int64)  # 10 MB for ImageNet
        self._mapping = _Mapping(self._file, int(self._offsets[-1]))

    def __getitem__(self, place):
        i, *inside = place
        first, last = self._offsets[i : i + 2].tolist()
        try:
            self._mapping.announce(first, last)
            return decode(self._mapping.bytes[first:last])[tuple(inside)]
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._file}: image {i} is no JPEG: pack the folder again "
                             f"({error})") from None  # fmt: skip


READERS = {"raw": RawPixels, "jpeg": JpegPixels}


def files(store: str, base: Path) -> list[Path]:
    """The files of a store whose names start with `base`."""
    endings = {"raw": [".u8"], "jpeg": [".jpegs", ".offsets.i64"]}[store]
    return [base.with_name(base.name + ending) for ending in endings]


def heads(store: str) -> list[bytes]:
    """What each of `files` starts with, before there are any images."""
    return {"raw": [b""], "jpeg": [b"", bytes(8)]}[store]  # the first string starts at 0


def blocks(store: str, images: Sequence[bytes], end: int) -> list[bytes]:
    """What is appended to each of `files` for some images, if the first one has `end` bytes."""
    pixels = b"".join(images)
    if store == "raw":
        return [pixels]
    return [pixels, (end + np.cumsum([len(string) for string in images])).tobytes()]


def _check_size(file, expected):
    size = file.stat().st_size if file.is_file() else None
    if size != expected:
        found = "is missing" if size is None else f"has {size:,} bytes"
        raise ValueError(f"{file}: {found}, {expected:,} expected: pack the folder again")
