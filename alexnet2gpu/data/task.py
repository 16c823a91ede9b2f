"""What a network has learned on, as far as whoever uses it must know: a run leaves it, each checkpoint has
it, and each export; so images can be classified where those of training are not.

    state.json   shape, classes' names, listing, checksums (of a checkpoint; in a run: task.json)
    mean.npy     (H, W, C) float32, the mean image, if it is subtracted
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet2gpu.config.keys import Data
from alexnet2gpu.config.schema import bounded, build_section
from alexnet2gpu.data.images import Images, array_file
from alexnet2gpu.faults import files

MEAN = "mean.npy"


@dataclass(frozen=True)
class Task:
    """Images of `shape` (H, W, C), uint8, of the classes `names`, the order of which is that of the outputs.

    number, labels: of the training images, and a checksum of their labels: which run it is.
    listing: a checksum of the training photographs' paths and classes; None if they were no files.
    mean: a checksum of the mean image's file; None if none is subtracted.
    grey_bits: of their deepest grey: pack/photograph.py.
    """

    number: int = bounded(least=1)
    labels: str
    shape: tuple[int, int, int] = bounded(least=1)
    names: tuple[str, ...]
    listing: str | None
    mean: str | None
    grey_bits: int = bounded(16, least=8, most=16)


class Learned:
    """A Task and, if one is subtracted, the mean image (H, W, C) float32; Preparation takes it in place of
    training images."""

    def __init__(self, task: Task, mean: np.ndarray | None):
        self.task, self.shape, self.mean = task, task.shape, mean

    def mean_image(self) -> np.ndarray:
        """(H, W, C) float32."""
        return self.mean

    def mean_file(self) -> bytes | None:
        """What MEAN has in it."""
        return None if self.mean is None else array_file(self.mean)

    def check_known(self, names: Sequence[str]) -> None:
        """Raises: ValueError if one of these is no class here."""
        if unknown := [name for name in names if name not in self.task.names]:
            raise ValueError(f"images of a class {unknown[0]!r}, which the network has not learned")

    def relabelled(self, images: Images) -> Images:
        """Other images, with the numbers that their classes have here. Raises: ValueError if they have a
        class that is none here."""
        known = {name: number for number, name in enumerate(self.task.names)}
        numbers = np.array([known.get(name, -1) for name in images.names])
        labels = numbers[images.labels]
        self.check_known([images.names[label] for label in np.unique(images.labels)])
        return replace(images, labels=labels, classes=len(known), names=self.task.names)


def learned_of(images: Images, data: Data) -> Learned:
    """Of training images, as a config's `data` has them prepared."""
    labels = files.checksum(np.ascontiguousarray(images.labels, np.int64))
    mean = np.ascontiguousarray(images.mean_image(), np.float32) if data.mean == "image" else None
    noted = None if mean is None else files.checksum(array_file(mean))
    task = Task(len(images), labels, images.shape, images.names, images.listing, noted, images.grey_bits)
    return Learned(task, mean)


def read_learned(document: dict[str, Any], folder: Path) -> Learned:
    """Of a checkpoint, whose state.json has the Task as a dict. Raises: ValueError, naming the file, if it
    is unreadable or not as it was written."""
    task, mean = build_section(Task, document, "state.json"), None
    if task.mean is not None:
        with files.faults_of(folder / MEAN):
            content = files.read_file(folder / MEAN, 4 * math.prod(task.shape) + 2**16)  # numpy's header
            if files.checksum(content) != task.mean:
                raise ValueError("not as it was written")
            mean = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            if mean.shape != task.shape or mean.dtype != np.float32 or not np.isfinite(mean).all():
                raise ValueError(f"not the mean of images of {task.shape}")
    return Learned(task, mean)
