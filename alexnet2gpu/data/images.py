"""A set of labelled images: uint8 arrays, in memory or memory-mapped."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Images:
    """pixels: (N, H, W, C) uint8, RGB if C is 3. labels: (N,) int64, each in 0 .. classes - 1.

    Raises: ValueError if the arrays are not of that form.
    """

    pixels: np.ndarray
    labels: np.ndarray
    classes: int

    def __post_init__(self):
        pixels, labels = self.pixels, self.labels
        if pixels.ndim != 4 or pixels.dtype != np.uint8:
            raise ValueError(
                f"images should be uint8 (N, H, W, C), not {pixels.dtype} {pixels.shape}"
            )
        if len(pixels) == 0:
            raise ValueError("there are no images")
        if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{len(pixels)} images should have as many whole-number labels, "
                f"not {labels.dtype} {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(
                f"labels from {labels.min()} to {labels.max()}, with {self.classes} classes"
            )

    def __len__(self):
        return len(self.pixels)

    def mean_image(self) -> np.ndarray:
        """(H, W, C) float32, the mean over all images, 0 to 255."""
        total = np.zeros(self.pixels.shape[1:], np.int64)
        for first in range(0, len(self), 256):
            total += self.pixels[first : first + 256].sum(0, dtype=np.int64)
        return (total / len(self)).astype(np.float32)
