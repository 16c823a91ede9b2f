"""A part of a pack while it is written: its files grow, and a journal says how far they are whole.

The journal is replaced (faults/files.py) after the files have been flushed to the disk. Whoever goes on after
a kill cuts the files off where the journal says that they end.
"""

import contextlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from alexnet2gpu.config.schema import bounded, build_section
from alexnet2gpu.data.images import Moments, array_file
from alexnet2gpu.data.pack.layout import Form, Part, Sidecar
from alexnet2gpu.data.pack.stores import STORES, blocks_of
from alexnet2gpu.faults import files


@dataclass
class Progress:
    """What the journal says, besides the sums of `Moments`."""

    begun: dict[str, str | int]  # which photographs, in which form
    taken: int = bounded(0, least=0)  # photographs dealt with
    sizes: tuple[int, ...] = bounded((), least=0)  # of the files, in bytes
    checksums: tuple[int, ...] = bounded((), least=0, most=2**32 - 1)  # CRC-32 of each
    skipped: list[tuple[str, str]] = field(default_factory=list)  # of each: name, reason


class GrowingFile:
    """A file to append to, which starts with `head`: how many bytes it has, and their CRC-32."""

    def __init__(self, path: Path, head: bytes):
        self.path, self.head, self.size, self.crc = path, head, 0, 0

    def open(self, stack: contextlib.ExitStack) -> None:
        """Until the end of the stack; what comes after `size` bytes is cut off."""
        mode = "r+b" if self.size else "wb"
        self.opened = stack.enter_context(open(self.path, mode, opener=files.regular))
        self.opened.truncate(self.size)
        self.opened.seek(self.size)
        if not self.size:
            self.append(self.head)

    def append(self, block: bytes) -> None:
        """Write some more."""
        self.opened.write(block)
        self.size, self.crc = self.size + len(block), zlib.crc32(block, self.crc)


class Growth:
    """The files of one part of PACK.partial; `begun` says which photographs, in which form.
    Raises: ValueError if an earlier journal says otherwise, is unreadable, or says more than is there."""

    def __init__(self, part: Part, form: Form, begun: dict):
        self.part, self.form, self.journal = part, form, part.file(".journal.npz")
        heads = {part.file(ending): head for ending, head in STORES[form.store].items()}
        heads |= {part.sums: b"", part.labels: b""}
        self.files = {path: GrowingFile(path, head) for path, head in heads.items()}
        self.moments = Moments(form.shape)
        self.progress = Progress(begun)
        self.anew = f"delete {part.folder} to start anew"
        self.finished = part.sidecar.exists()
        if self.finished:
            self._expect(begun, part.read_sidecar().source)
            self.journal.unlink(missing_ok=True)  # left by a kill just before the end of `finish`
        elif self.journal.exists():
            self._go_on(begun)

    def _go_on(self, begun):
        moments = self.moments
        try:
            content = io.BytesIO(files.read_file(self.journal, files.LARGEST_SEALED + moments.total.nbytes))
            if any(inside.compress_type for inside in zipfile.ZipFile(content).infolist()):
                raise ValueError("compressed, so of any size")
            with np.load(content) as saved:
                self.progress = build_section(Progress, json.loads(str(saved["progress"])))
                moments.images = int(saved["images"])
                for before, now in ((moments.total, "total"), (moments.products, "products")):
                    before[:] = saved[now].astype(np.int64, casting="no").reshape(before.shape)
            noted = self.progress.sizes, self.progress.checksums
            for file, size, crc in zip(self.files.values(), *noted, strict=True):
                file.size, file.crc = size, crc
        except Exception:  # numpy and zipfile raise whatever they like
            raise ValueError(f"{self.journal}: unreadable: {self.anew}") from None
        self._expect(begun, self.progress.begun)
        for path, file in self.files.items():
            if not path.exists() or path.stat().st_size < file.size:
                raise ValueError(f"{path}: has lost what was noted of it: {self.anew}")

    def _expect(self, now, before):
        if now != before:
            other = "was begun with other photographs or in another form"
            raise ValueError(f"{self.part.folder}: {other}: {self.anew}")

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The files are open meanwhile."""
        with contextlib.ExitStack() as stack:
            for file in self.files.values():
                file.open(stack)
            yield

    def append(self, images: Sequence[bytes], labels: Sequence[int], moments: Moments) -> None:
        """Write some images, as the store has them, whose sums are `moments`."""
        pixels, *_ = self.files.values()
        blocks = blocks_of(self.form.store, images, pixels.size)
        blocks = {self.part.file(ending): block for ending, block in blocks.items()}
        blocks[self.part.sums] = np.array([zlib.crc32(image) for image in images], np.uint32).tobytes()
        blocks[self.part.labels] = np.array(labels, np.int64).tobytes()
        for path, block in blocks.items():
            self.files[path].append(block)
        self.moments.include(moments)

    def note(self) -> None:
        """Flush the files, then write the journal."""
        for file in self.files.values():
            files.flush(file.opened)
        self.progress.sizes = [file.size for file in self.files.values()]
        self.progress.checksums = [file.crc for file in self.files.values()]
        content, moments = io.BytesIO(), self.moments
        sums = {"images": moments.images, "total": moments.total, "products": moments.products}
        np.savez(content, progress=json.dumps(asdict(self.progress)), **sums)
        files.write_whole(self.journal, content.getvalue())

    def finish(self, classes: Sequence[str], with_mean: bool) -> None:
        """Write what is known of the whole part: it is finished with that. Raises: ValueError if there are no
        images, or not those that were there at the beginning."""
        part, images, progress = self.part, self.moments.images, self.progress
        if not images:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in progress.skipped[:3])
            raise ValueError(f"{part.name}/ has no photograph that can be read: {reasons}")
        if progress.taken != progress.begun["photographs"]:
            raise ValueError(f"{part.name}/: files came or went meanwhile: {self.anew}")
        checksums = {path.name: f"crc32 {file.crc:08x}" for path, file in self.files.items()}
        if with_mean:
            content = array_file(self.moments.mean)
            files.write_whole(part.mean, content)
            checksums[part.mean.name] = files.checksum(content)
        sidecar = Sidecar(
            shape=(images, *self.form.shape),
            store=self.form.store,
            source=progress.begun,
            checksums=checksums,
            mean=part.mean.name if with_mean else None,
            covariance=self.moments.covariance.tolist() if with_mean else None,
            skipped=progress.skipped,
            classes=classes,
        )
        files.write_whole(part.sidecar, files.seal(asdict(sidecar)))
        self.journal.unlink()
