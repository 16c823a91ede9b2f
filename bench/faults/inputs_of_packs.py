"""Inputs of the readers of packs and of what one is while it grows, for bench.faults.readers."""

import io
import json

import numpy as np

from alexnet2gpu.data.images import Moments
from alexnet2gpu.data.pack import growth, layout
from alexnet2gpu.data.pack.stores import encode_jpeg
from alexnet2gpu.faults import files
from bench.faults.changes import change_tree, random_npy
from bench.faults.inputs import Reader
from bench.faults.inputs_of_images import Pictures

FORM = layout.Form("raw", 8)
BEGUN = {"folder": "x", "photographs": 3, "listing": "sha256 0", "store": "raw", "size": 8, "quality": 90}


def begin(folder, form, finish):
    """A pack of two images in each part, or only its beginning."""
    for name in layout.PARTS:
        grows = growth.Growth(layout.Part(folder, name), form, {**BEGUN, "store": form.store})
        with grows.opened():
            for label in (0, 1):
                pixels = np.full((8, 8, 3), 90 * label, np.uint8)
                moments = Moments(pixels.shape)
                moments.add(pixels[None])
                content = pixels.tobytes() if form.store == "raw" else encode_jpeg(pixels, 90)
                grows.append([content], [label], moments)
            grows.progress.taken, grows.progress.skipped = 3, [("a/x.png", "why")]
            grows.note()
            if finish:
                grows.finish(["a", "b"], with_mean=name == "train")


class Packs(Pictures):
    """Of both stores; checksums are made right where `sealed` says so."""

    source, store = "folder", "raw"

    def write(self):
        self.names = (self.folder.name,)
        begin(self.folder, layout.Form(self.store, 8), finish=True)

    def targets(self):
        return [file for file in self.whole if file.suffix != ".json"]

    def say(self, file, draw):
        from hypothesis import strategies as some

        if file.suffix == ".npy":
            return random_npy(draw)
        numbers = some.lists(some.sampled_from([0, 1, 3, 4, -1, 2**31, 2**62, -(2**63)]), max_size=4)
        kind = np.uint32 if file.suffix == ".u32" else np.int64
        return np.array(draw(numbers), np.int64).astype(kind).tobytes()

    def put(self, file, content, kind="file"):
        super().put(file, content, kind)
        sidecar = self.folder / f"{file.name.split('.')[0]}.json"
        said = files.read_sealed(sidecar)
        if kind == "file" and sidecar != file:
            said["checksums"][file.name] = files.checksum(content)
            super().put(sidecar, files.seal(said))


class JpegPacks(Packs):
    store = "jpeg"


class Sidecars(Packs):
    put = Reader.put

    def targets(self):
        return [file for file in self.whole if file.suffix == ".json"]

    def say(self, file, draw):
        tree = files.read_sealed(file)
        change_tree(tree, draw)
        return files.seal(tree)


class Journals(Reader):
    def make(self):
        begin(self.folder, FORM, finish=False)
        self.names = "journal.npz", self.folder.name

    def targets(self):
        return [self.folder / "train.journal.npz"]

    def say(self, file, draw):
        from hypothesis import strategies as some

        with np.load(file) as saved:
            parts = dict(saved)
        progress = json.loads(str(parts["progress"]))
        change_tree(progress, draw)
        parts["progress"] = json.dumps(progress)
        if draw(some.booleans()):
            parts[draw(some.sampled_from(list(parts)))] = np.zeros(
                draw(some.sampled_from([0, 1, (8, 8, 3), 9]))
            )
        content = io.BytesIO()
        (np.savez_compressed if draw(some.integers(0, 9)) == 0 else np.savez)(content, **parts)
        return content.getvalue()

    def read(self):
        part = layout.Part(self.folder, "train")
        found = growth.Growth(part, FORM, BEGUN)
        whole = found.moments.total.shape == (8, 8, 3) and found.moments.total.dtype == np.int64
        return "" if whole and isinstance(found.progress.skipped, list) else "not what a journal says"
