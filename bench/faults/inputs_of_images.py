"""Inputs of the readers of images and photographs, for bench.faults.readers."""

import gzip
import io
import json
import pickle

import numpy as np
from PIL import Image

from alexnet2gpu.config.load import REPOSITORY, load_config
from alexnet2gpu.data.idx import IDX_FILES
from alexnet2gpu.data.pack import photograph, workers
from alexnet2gpu.data.pack.layout import Form
from alexnet2gpu.data.prepare import colour_components
from alexnet2gpu.data.sources import load_images
from bench.faults.changes import other_values, random_idx, random_npy
from bench.faults.inputs import SMALL, Reader

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 80 80
%%EndComments
0 0 80 80 rectfill showpage
%%EOF
"""


class Pictures(Reader):
    """Images of one source, in a `form` of files."""

    def make(self):
        place = [f"data.name={self.source}", f"data.dir={json.dumps(str(self.folder))}"]
        self.config = load_config(REPOSITORY / "configs/quick.yaml", [*SMALL, *place])
        self.names = ".npy", "-ubyte", "data.name", "cifar-10-batches-py", ".json", "pack:"
        self.write()

    def read(self):
        for images in load_images(self.config.data, self.config.model):
            pixels = np.stack([images.pixels[i, :] for i in range(len(images))])
            right = pixels.dtype == np.uint8 and images.labels.dtype == np.int64
            if not right or len(pixels) != len(images.labels) or images.labels.max() >= images.classes:
                return "not images and their labels"
            colour_components(images.colour_covariance(), "2012")
            if not np.isfinite(images.mean_image()).all():
                return "a mean image that is not finite"
        return ""


class Arrays(Pictures):
    source = "arrays"

    def write(self):
        for part in ("train", "test"):
            np.save(self.folder / f"{part}_images.npy", np.ones((2, 8, 8, 3), np.uint8))
            np.save(self.folder / f"{part}_labels.npy", np.array([0, 3]))

    def say(self, file, draw):
        from hypothesis import strategies as some

        other = io.BytesIO()
        if draw(some.integers(0, 9)):
            return random_npy(draw)
        np.savez(other, np.ones((2, 8, 8, 3), np.uint8))
        return draw(some.sampled_from([other.getvalue(), other.getvalue()[:90], pickle.dumps([1])]))


class Idx(Pictures):
    source = "fashion-mnist"

    def write(self):
        for number, name in enumerate(IDX_FILES):
            pixels = bytes([0, 0, 8, 4]) + np.array([2, 8, 8, 3], ">u4").tobytes() + bytes(384)
            content = bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 3]) if number % 2 else pixels
            if number < 2:
                (self.folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (self.folder / name).write_bytes(content)

    def say(self, file, draw):
        content = random_idx(draw)
        return gzip.compress(content) if file.suffix == ".gz" else content


class Cifar(Pictures):
    source = "cifar-10"

    def write(self):
        place = self.folder / "cifar-10-batches-py"
        place.mkdir()
        for name in ("data_batch_1", "test_batch", "batches.meta"):
            (place / name).write_bytes(pickle.dumps({"data": [1], "labels": [1]}))

    def say(self, file, draw):
        return pickle.dumps(draw(other_values()))


class Photographs(Reader):
    """Whatever a file is, a worker returns its square or leaves it out with a reason."""

    def make(self):
        Image.init()
        scene = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
        for kind in photograph.KINDS:
            if kind in Image.SAVE:
                scene.save(self.folder / f"a.{kind}", kind)
        scene.convert("P").save(self.folder / "p.png", transparency=3)
        scene.save(self.folder / "lzw.tif", compression="tiff_lzw")
        scene.save(
            self.folder / "turned.jpg", exif=b"Exif\0\0II*\0\10\0\0\0\1\0\22\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
        )
        scene.convert("I").save(self.folder / "deep.tif")
        (self.folder / "drawing.jpg").write_bytes(POSTSCRIPT)

    def say(self, file, draw):
        """A few of the first bytes, which say what it is and how large."""
        from hypothesis import strategies as some

        content = bytearray(self.whole[file])
        for _ in range(draw(some.integers(1, 4))):
            at = draw(some.integers(0, min(len(content), 120) - 1))
            content[at] = draw(some.sampled_from([0, 1, 2, 4, 127, 128, 255]) | some.integers(0, 255))
        return bytes(content)

    def read(self):
        for file in self.changed:
            images, labels, _, skipped = workers._work(
                self.folder, [(file.name, 1)], Form("raw", 8, grey_bits=16)
            )
            whole = len(images) == 1 and len(images[0]) == 8 * 8 * 3 and labels == [1]
            named = len(skipped) == 1 and skipped[0][0] == file.name and skipped[0][1].isprintable()
            if not (whole or named):
                return f"neither a square nor a reason: {images} {skipped}"
        return ""
