"""A part of a pack while it is written: its files grow, and a journal says how far they are whole.

The journal is replaced (faults/files.py) after the files have been flushed to the disk. Whoever goes on
after a kill cuts the files off where the journal says that they end.
"""

import contextlib
import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from alexnet2gpu.data.images import Moments
from alexnet2gpu.data.pack import stores
from alexnet2gpu.data.pack.layout import Part
from alexnet2gpu.faults import files


@dataclass(frozen=True)
class Form:
    """What a pack is made of: store `raw` or `jpeg`, the side of its images, JPEG's quality."""

    store: str = "raw"
    size: int = 256
    quality: int = 90


@dataclass
class Progress:
    """What the journal says, besides the sums of `Moments`."""

    begun: dict  # which photographs, in which form
    taken: int = 0  # photographs dealt with
    sizes: list[int] = dataclasses.field(default_factory=list)  # of the files, in bytes
    checksums: list[int] = dataclasses.field(default_factory=list)  # CRC-32 of each
    skipped: list = dataclasses.field(default_factory=list)  # of each: name, reason


class GrowingFile:
    """A file to append to: how many bytes it has, and their CRC-32."""

    def __init__(self, path: Path):
        self.path, self.size, self.crc = path, 0, 0

    def begin(self, head: bytes) -> None:
        """Write what it starts with."""
        self.path.write_bytes(head)
        self.size, self.crc = len(head), zlib.crc32(head)

    def open(self, stack: contextlib.ExitStack) -> None:
        """Until the end of the stack; what comes after `size` bytes is cut off."""
        self.opened = stack.enter_context(open(self.path, "r+b"))
        self.opened.truncate(self.size)
        self.opened.seek(self.size)

    def append(self, block: bytes) -> None:
        """Write some more."""
        self.opened.write(block)
        self.size, self.crc = self.size + len(block), zlib.crc32(block, self.crc)


class Growth:
    """The files of one part, as a context manager.

    Args:
        part: of PACK.partial.
        begun: which photographs, in which form; an earlier journal must say the same.

    Raises: ValueError if it does not.
    """

    def __init__(self, part: Part, form: Form, begun: dict):
        self.part, self.form, self.journal = part, form, part.file(".journal.npz")
        heads = {**stores.heads(form.store), ".sums.u32": b"", ".labels.i64": b""}
        self.files = {ending: GrowingFile(part.file(ending)) for ending in heads}
        self.moments = Moments((form.size, form.size, 3))
        self.progress = Progress(begun)
        if self.finished:
            self._expect(begun, part.read_sidecar()["source"])
            self.journal.unlink(missing_ok=True)  # left by a kill just before the end of `finish`
        elif self.journal.exists():
            self._go_on(begun)
        else:
            for ending, head in heads.items():
                self.files[ending].begin(head)

    @property
    def finished(self) -> bool:
        """Whether the part is whole."""
        return self.part.sidecar.exists()

    def _go_on(self, begun):
        try:
            with np.load(self.journal) as saved:
                self.progress = Progress(**json.loads(str(saved["progress"])))
                self.moments.images = int(saved["images"])
                self.moments.total, self.moments.products = saved["total"], saved["products"]
            noted = self.progress.sizes, self.progress.checksums
            for file, size, crc in zip(self.files.values(), *noted, strict=True):
                file.size, file.crc = size, crc
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            raise ValueError(f"{self.journal}: unreadable: {self._anew}") from None
        self._expect(begun, self.progress.begun)
        for file in self.files.values():
            if not file.path.exists() or file.path.stat().st_size < file.size:
                raise ValueError(f"{file.path}: has lost what was noted of it: {self._anew}")

    def _expect(self, now, before):
        if now != before:
            other = "was begun with other photographs or in another form"
            raise ValueError(f"{self.part.folder}: {other}: {self._anew}")

    @property
    def _anew(self):
        return f"delete {self.part.folder} to start anew"

    def __enter__(self) -> "Growth":
        with contextlib.ExitStack() as stack:
            for file in self.files.values():
                file.open(stack)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    def append(self, images: Sequence[bytes], labels: Sequence[int], moments: Moments) -> None:
        """Write some images, as the store has them, whose sums are `moments`."""
        pixels, *_ = self.files.values()
        blocks = stores.blocks(self.form.store, images, pixels.size)
        sums = np.array([zlib.crc32(image) for image in images], np.uint32)
        blocks |= {".sums.u32": sums.tobytes(), ".labels.i64": np.array(labels, np.int64).tobytes()}
        for ending, block in blocks.items():
            self.files[ending].append(block)
        self.moments.include(moments)

    def note(self) -> None:
        """Flush the files, then write the journal."""
        for file in self.files.values():
            files.flush(file.opened)
        self.progress.sizes = [file.size for file in self.files.values()]
        self.progress.checksums = [file.crc for file in self.files.values()]
        content, moments = io.BytesIO(), self.moments
        sums = {"total": moments.total, "products": moments.products}
        progress = json.dumps(asdict(self.progress))
        np.savez(content, progress=progress, images=moments.images, **sums)
        files.write_whole(self.journal, content.getvalue())

    def finish(self, classes: Sequence[str], with_mean: bool) -> None:
        """Write what is known of the whole part: it is finished with that.

        Raises: ValueError if there are no images, or not those that were there at the beginning.
        """
        images, size, progress = self.moments.images, self.form.size, self.progress
        if not images:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in progress.skipped[:3])
            raise ValueError(f"{self.part.name}/ has no photograph that can be read: {reasons}")
        if progress.taken != progress.begun["photographs"]:
            raise ValueError(f"{self.part.name}/: files came or went meanwhile: {self._anew}")
        checksums = {file.path.name: f"crc32 {file.crc:08x}" for file in self.files.values()}
        if with_mean:
            content = io.BytesIO()
            np.save(content, self.moments.mean)
            files.write_whole(self.part.mean, content.getvalue())
            checksums[self.part.mean.name] = files.checksum(content.getvalue())
        sidecar = {
            "shape": [images, size, size, 3],
            "store": self.form.store,
            "source": progress.begun,
            "checksums": checksums,
            "mean": self.part.mean.name if with_mean else None,
            "covariance": self.moments.covariance.tolist() if with_mean else None,
            "skipped": progress.skipped,
            "classes": list(classes),
        }
        files.write_whole(self.part.sidecar, files.seal(sidecar))
        self.journal.unlink()
