"""A set of labelled images: uint8 pixels in memory, memory-mapped, or decoded as they are read."""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alexnet2gpu.config.keys import MOST_CLASSES


@dataclass(frozen=True)
class Images:
    """Pixels and labels of N images, and what is known of them beforehand.

    Args:
        pixels: (N, H, W, C) uint8, RGB if C is 3: an array, or a pack's pixels (pack/stores.py), which have
            its shape and dtype and give an image's `[i, rows]`, all columns of them.
        labels: (N,) whole numbers, each in 0 .. classes - 1; they become int64.
        classes: how many there are; their `names`, which are `class 0`, `class 1` ... if they have none.
        listing: a checksum of the photographs' paths and classes; None if they are no files.
        grey_bits: of their deepest grey: pack/photograph.py.
        remarks: what a user should know of how they were found, a line each.
        mean: (H, W, C), the mean over all images; None for an array: it is found when it is wanted.
        covariance: (C, C) of the channels over all pixels, likewise.

    Raises: ValueError if pixels and labels are not of that form.
    """

    pixels: Any
    labels: np.ndarray
    classes: int
    names: tuple[str, ...] | None = None
    mean: np.ndarray | None = None
    covariance: np.ndarray | None = None
    listing: str | None = None
    grey_bits: int = 16
    remarks: tuple[str, ...] = ()

    def __post_init__(self):
        pixels, labels = self.pixels, self.labels
        if len(pixels.shape) != 4 or pixels.dtype != np.uint8:
            raise ValueError(f"images should be uint8 (N, H, W, C), not {pixels.dtype} {pixels.shape}")
        if len(self) == 0:
            raise ValueError("there are no images")
        if labels.shape != (len(self),) or labels.dtype.kind not in "iu":
            wanted = f"{len(self)} images should have as many whole-number labels"
            raise ValueError(f"{wanted}, not {labels.dtype} {labels.shape}")
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}, with {self.classes} classes")
        if self.names is None and self.classes <= MOST_CLASSES:
            object.__setattr__(self, "names", tuple(f"class {n}" for n in range(self.classes)))
        # not before they are counted: a small file may say that it has any number of them
        object.__setattr__(self, "labels", np.array(labels, np.int64))
        shapes = {"mean": pixels.shape[1:], "covariance": pixels.shape[3:] * 2}
        for name, shape in shapes.items():
            known = getattr(self, name)
            if known is None:
                continue
            if known.shape != shape or known.dtype.kind != "f" or not np.isfinite(known).all():
                raise ValueError(f"the {name} should be finite, {shape}, not {known.dtype} {known.shape}")

    def __len__(self):
        return self.pixels.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return tuple(self.pixels.shape[1:])

    def mean_image(self) -> np.ndarray:
        """(H, W, C) float32, the mean over all images, 0 to 255."""
        return self._moments.mean if self.mean is None else self.mean

    def colour_covariance(self) -> np.ndarray:
        """(C, C) float64, the covariance of the channels over all pixels of all images."""
        return self._moments.covariance if self.covariance is None else self.covariance

    @cached_property
    def _moments(self):
        moments = Moments(self.pixels.shape[1:])
        for first in range(0, len(self), 64):
            some = range(first, min(first + 64, len(self)))
            moments.add(np.stack([self.pixels[i, :] for i in some]))
        return moments


def middle(image: np.ndarray, crop: int | None) -> np.ndarray:
    """(H, W, C) -> the (crop, crop, C) in its middle, as those of testing are cut; all of it without a
    crop."""
    if crop is None:
        return image
    top, left = ((side - crop) // 2 for side in image.shape[:2])
    return image[top : top + crop, left : left + crop]


def array_file(array: np.ndarray) -> bytes:
    """What a .npy file of it has in it."""
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


class Moments:
    """Sums over images of (H, W, C) uint8, from which mean and covariance follow.

    All are whole numbers below 2**53, so no order of adding changes a bit of them.
    """

    def __init__(self, shape: tuple[int, int, int]):
        self.images = 0  # how many were added
        self.total = np.zeros(shape, np.int64)  # (H, W, C), of the images
        self.products = np.zeros((shape[2], shape[2]), np.int64)  # (C, C), over all pixels, of two channels

    def add(self, pixels: np.ndarray) -> None:
        """Add images (B, H, W, C) uint8."""
        channels = pixels.reshape(-1, pixels.shape[3]).astype(np.float64)
        self.images += len(pixels)
        self.total += pixels.sum(0, dtype=np.int64)
        self.products += (channels.T @ channels).astype(np.int64)

    def include(self, other: "Moments") -> None:
        """Add the images of `other`."""
        self.images += other.images
        self.total += other.total
        self.products += other.products

    @property
    def mean(self) -> np.ndarray:
        """(H, W, C) float32."""
        return (self.total / self.images).astype(np.float32)

    @property
    def covariance(self) -> np.ndarray:
        """(C, C) float64."""
        height, width, _ = self.total.shape
        pixels = self.images * height * width
        mean = self.total.sum((0, 1)) / pixels
        return self.products / pixels - np.outer(mean, mean)
