"""Files that are there whole or not at all, and that tell if they were changed.

A file is written beside its place, flushed to the disk and then renamed. Its checksum is the CRC-32 of its
bytes, as "crc32 0123abcd": it tells any change by accident, not one on purpose. A *sealed* file is JSON whose
first line has the checksum of all that follows.

What comes from outside, or has a known name, is opened with `opener=regular`: a pipe would be waited for,
/dev/zero has no end, and a link may lead to what belongs to somebody else.
"""

import contextlib
import errno
import json
import os
import stat
import zlib
from pathlib import Path
from typing import IO, Any

LARGEST_SEALED = 2**24  # bytes of a sealed file, of which JSON makes up to thirty times as many
OF_THE_SYSTEM = errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM  # not of a file
BLOCK = 2**24  # bytes in memory at a time


def regular(path: str, flags: int) -> int:
    """An `opener` for `open`: of regular files only, and no link is followed to write. Raises: OSError."""
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    try:
        # O_NONBLOCK, or a pipe would be waited for
        handle = os.open(path, flags | os.O_NONBLOCK | (os.O_NOFOLLOW if writes else 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and writes:
            error.strerror = "is a link, and none is followed to write"
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is not a regular file", path)
    return handle


def write_whole(file: Path, content: bytes, flush_name: bool = True) -> None:
    """Write a file, or replace it; with `flush_name` the disk knows its name too when it returns. Raises:
    OSError; then what was there is there still."""
    beside = file.with_name(f".{file.name}.new")
    try:
        beside.unlink(missing_ok=True)  # what is left of a kill, or a link
        with open(beside, "xb") as opened:
            opened.write(content)
            flush(opened)
        os.replace(beside, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)  # on a full disk its place is wanted
        raise OSError(error.errno, error.strerror, str(file)) from None
    if flush_name:
        flush_folder(file.parent)


def flush(file: IO) -> None:
    """Return when the disk has what was written to an open file."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Return when the disk has the names of a folder's files: what was renamed stays renamed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as some network file systems say
            raise
    finally:
        os.close(handle)


def read_file(file: Path, most: int) -> bytes:
    """Its content. Raises: OSError; ValueError if it has more than so many bytes."""
    with open(file, "rb", opener=regular) as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise ValueError(f"larger than {most:,} bytes")
    return content


@contextlib.contextmanager
def faults_of(file: Path):
    """Raises: ValueError with the name of a file that is unreadable, or is not what it should be; OSError if
    that cannot be said."""
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        if getattr(error, "errno", None) in OF_THE_SYSTEM:
            raise
        raise ValueError(f"{file.name}: {getattr(error, 'strerror', None) or error}") from None


def checksum(content: bytes, before: int = 0) -> str:
    return f"crc32 {zlib.crc32(content, before):08x}"


def checksum_of(file: Path) -> str:
    """`checksum` of what a file has in it. Raises: OSError."""
    crc = 0
    with open(file, "rb", opener=regular) as opened:
        while block := opened.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return checksum(b"", crc)


def compare_checksum(file: Path, expected: str) -> None:
    """Raises: ValueError if a file is not there, or has not the expected checksum; OSError if that cannot be
    said."""
    with faults_of(file):
        if (found := checksum_of(file)) != expected:
            raise ValueError(f"not as it was written ({expected}, now {found})")


def seal(document: dict[str, Any]) -> bytes:
    """The bytes of a sealed file. `document` is not empty."""
    _, body = json.dumps(document, indent=1).encode().split(b"\n", 1)
    return _head(body) + body


def read_sealed(file: Path) -> dict[str, Any]:
    """What `seal` was given. Raises: ValueError if the file is unreadable or was changed; OSError if that
    cannot be said."""
    with faults_of(file):
        content = read_file(file, LARGEST_SEALED)
        body = content.partition(b"\n")[2]
        if content != _head(body) + body:
            raise ValueError("not as it was written")
        return json.loads(b"{" + body)


def _head(body):
    return f'{{"checksum": "{checksum(body)}",\n'.encode()
