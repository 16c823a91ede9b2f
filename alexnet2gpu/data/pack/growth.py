"""A part of a pack while it is written: its files grow, and a journal says how far they are whole.

The journal is replaced (files.py) after the files have been flushed to the disk. Whoever goes on
after a kill cuts the files off where the journal says that they end.
"""

import contextlib
import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet2gpu.faults import files
from alexnet2gpu.data.pack import stores
from alexnet2gpu.data.images import Moments
from alexnet2gpu.data.pack.layout import all_files, mean_file, read_sidecar, sidecar_file


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


class Growth:
    """The files of one part, as a context manager.

    Args:
        base: their names without endings, PACK.partial/train.
        begun: which photographs, in which form; an earlier journal must say the same.

    Raises: ValueError if it does not.
    """

    def __init__(self, base: Path, form: Form, begun: dict):
        self.base, self.form = base, form
        self.journal = base.with_name(base.name + ".journal.npz")
        self.sidecar = sidecar_file(base)
        self.paths = all_files(form.store, base)
        self.moments = Moments((form.size, form.size, 3))
        self.progress = Progress(begun)
        if self.finished:
            self._expect(begun, read_sidecar(base.parent, base.name)["source"])
            self.journal.unlink(missing_ok=True)  # left by a kill just before the end of `finish`
        elif self.journal.exists():
            self._go_on(begun)
        else:
            heads = [*stores.heads(form.store), b"", b""]  # the last ones are of sums and labels
            for path, head in zip(self.paths, heads):
                path.write_bytes(head)
            self.progress.sizes = [len(head) for head in heads]
            self.progress.checksums = [zlib.crc32(head) for head in heads]

    @property
    def finished(self) -> bool:
        """Whether the part is whole."""
        return self.sidecar.exists()

    def _go_on(self, begun):
        try:
            with np.load(self.journal) as saved:
                self.progress = Progress(**json.loads(str(saved["progress"])))
                self.moments.images = int(saved["images"])
                self.moments.total, self.moments.products = saved["total"], saved["products"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            raise ValueError(f"{self.journal}: unreadable: {self._anew}") from None
        self._expect(begun, self.progress.begun)
        for path, size in zip(self.paths, self.progress.sizes):
            if not path.exists() or path.stat().st_size < size:
                raise ValueError(f"{path}: has lost what was noted of it: {self._anew}")

    def _expect(self, now, before):
        if now != before:
            raise ValueError(f"{self.base.parent}: was begun with other photographs or in another "
                             f"form: {self._anew}")  # fmt: skip

    @property
    def _anew(self):
        return f"delete {self.base.parent} to start anew"

    def __enter__(self) -> "Growth":
        with contextlib.ExitStack() as stack:
            pairs = zip(self.paths, self.progress.sizes)
            self.files = [stack.enter_context(_open_at(*pair)) for pair in pairs]
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    def append(self, images: Sequence[bytes], labels: Sequence[int], moments: Moments) -> None:
        """Write some images, as the store has them, whose sums are `moments`."""
        blocks = stores.blocks(self.form.store, images, self.progress.sizes[0])
        blocks.append(np.array([zlib.crc32(image) for image in images], np.uint32).tobytes())
        blocks.append(np.array(labels, np.int64).tobytes())
        for number, (file, block) in enumerate(zip(self.files, blocks)):
            file.write(block)
            self.progress.sizes[number] += len(block)
            self.progress.checksums[number] = zlib.crc32(block, self.progress.checksums[number])
        self.moments.include(moments)

    def note(self) -> None:
        """Flush the files, then write the journal."""
        for file in self.files:
            files.flush(file)
        content = io.BytesIO()
        np.savez(
            content, progress=json.dumps(asdict(self.progress)), images=self.moments.images,
            total=self.moments.total, products=self.moments.products,
        )  # fmt: skip
        files.write_whole(self.journal, content.getbuffer())

    def finish(self, classes: Sequence[str], with_mean: bool) -> None:
        """Write what is known of the whole part: it is finished with that.

        Raises: ValueError if there are no images, or not those that were there at the beginning.
        """
        images, size, progress = self.moments.images, self.form.size, self.progress
        if not images:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in progress.skipped[:3])
            raise ValueError(f"{self.base.name}/ has no photograph that can be read: {reasons}")
        if progress.taken != progress.begun["photographs"]:
            raise ValueError(f"{self.base.name}/: files came or went meanwhile: {self._anew}")
        names = [path.name for path in self.paths]
        sums = [f"crc32 {crc:08x}" for crc in progress.checksums]
        if with_mean:
            content = io.BytesIO()
            np.save(content, self.moments.mean)
            files.write_whole(mean_file(self.base), content.getbuffer())
            names.append(mean_file(self.base).name)
            sums.append(files.checksum(content.getbuffer()))
        sidecar = {
            "shape": [images, size, size, 3],
            "store": self.form.store,
            "source": progress.begun,
            "checksums": dict(zip(names, sums)),
            "mean": mean_file(self.base).name if with_mean else None,
            "covariance": self.moments.covariance.tolist() if with_mean else None,
            "skipped": progress.skipped,
            "classes": list(classes),
        }
        files.write_whole(self.sidecar, files.seal(sidecar))
        self.journal.unlink()


@contextlib.contextmanager
def _open_at(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file to append to from byte `size` on; what comes after is cut off."""
    with open(path, "r+b") as file:
        file.truncate(size)
        file.seek(size)
        yield file
