"""Pixels -> network input, a batch at a time, on the device: mirror, less the mean, colour, scale.

The colour of a training image is moved along the principal components of the training set's RGB values
(Krizhevsky, Sutskever and Hinton 2012, section 4.1), all its pixels alike, by V (a * s): V the eigenvectors
of their covariance, `a` drawn from N(0, strength^2) for each image and component. What s is depends on
`data.colour_law`:

    2012    as it was run: the square roots of the eigenvalues, and afterwards the whole image is
            divided by 1 + strength, so that it is no larger than a test image
    text    as the paper has it: the eigenvalues, taken of pixels from 0 to 1; no division
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet2gpu.config.keys import Config, Data
from alexnet2gpu.data.crops import Corners, cut_ahead
from alexnet2gpu.data.images import Images
from alexnet2gpu.model.step import weight_dtype

CACHED_ELEMENTS = 2**18  # at a time on the CPU, so that they stay in its cache from one pass to the next


def find_statistics(images: Images, data: Data) -> None:
    """Find the mean and the colours of training images, if they are wanted and not known: for ranks to do
    before they wait for each other, since with large arrays it takes minutes."""
    if data.mean == "image" or data.colour:
        images.mean_image()


class Preparation:
    """See above; of the training `images`, mean and colours count. What is subtracted is the centre of the
    mean image, wherever a crop was cut, as in the code of 2012."""

    def __init__(self, images: Images, config: Config, device: torch.device):
        self.data = config.data
        _, height, width, _ = images.pixels.shape
        self.crop = self.data.crop or height
        self.centre = (height - self.crop) // 2, (width - self.crop) // 2
        self.device, self.dtype = device, weight_dtype(config.train.precision)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.mean = None
        if self.data.mean == "image":
            top, left = self.centre
            mean = images.mean_image()[top : top + self.crop, left : left + self.crop].reshape(self.crop, -1)
            self.mean = self._to_device(torch.from_numpy(mean)).to(self.dtype)  # (crop, crop * C)
        if self.data.colour:
            self.components = colour_components(images.colour_covariance(), self.data.colour_law)

    def cut(self, images: Images, batches: Iterable[Corners]) -> Iterator[Tensor]:
        """The crops (B, crop, crop, C) uint8 of each of `batches`, each to be prepared before the next is
        asked for."""
        return cut_ahead(images, batches, self.crop, self.data.threads, self.stream)

    def __call__(
        self,
        pixels: Tensor,
        flip: np.ndarray | None = None,
        colour: np.ndarray | None = None,
        strength: float = 0,
    ) -> Tensor:
        """(B, crop, crop, C) uint8 -> (B, C, H, W) float, both on the device, with channels last in memory.

        Args:
            flip: (B,) bool, which ones to mirror; None for none.
            colour: (B, C), how far to move each along the components, in standard deviations.
            strength: of the colour's movement; 0 leaves it alone.
        """
        count, crop, _, channels = pixels.shape
        divisor, offset = self.data.divide, None
        if strength:
            divisor *= 1 + strength if self.data.colour_law == "2012" else 1
            moved = strength * colour @ self.components.T / divisor  # (B, C)
            offset = np.tile(moved, crop)[:, None]  # (B, 1, crop * C), a row of pixels
            offset = self._to_device(torch.from_numpy(offset).to(self.dtype))
        less = None if self.mean is None else -self.mean / divisor  # (crop, crop * C)
        x = torch.empty(count, crop, crop * channels, dtype=self.dtype, device=self.device)
        at_once = count if x.is_cuda else max(1, CACHED_ELEMENTS // x[0].numel())
        for first in range(0, count, at_once):
            some = slice(first, first + at_once)
            x[some] = self._mirror(pixels[some], flip, some).flatten(2)
            added = less
            if offset is not None:
                added = offset[some] if less is None else offset[some] + less
            if added is None:
                x[some] /= divisor
            else:
                torch.add(added, x[some], alpha=1 / divisor, out=x[some])
        x = x.view(count, crop, crop, channels).permute(0, 3, 1, 2)
        if self.data.resize:
            x = F.interpolate(x, size=(self.data.resize, self.data.resize), mode="bilinear")
        return x

    def _mirror(self, pixels, flip, some):
        """(b, crop, crop, C) with those mirrored that `flip[some]` says."""
        chosen = np.flatnonzero(flip[some]) if flip is not None else []
        if not len(chosen):
            return pixels
        if len(chosen) == len(pixels):
            return _mirrored(pixels)
        chosen = self._to_device(torch.from_numpy(chosen))
        return pixels.index_copy(0, chosen, _mirrored(pixels.index_select(0, chosen)))

    def labels(self, labels: np.ndarray) -> Tensor:
        """(B,) on the device."""
        return self._to_device(torch.from_numpy(np.asarray(labels, np.int64)))

    def _to_device(self, tensor):
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _mirrored(pixels):
    """(b, H, W, C), left and right changed over: torch is quick at it if told channels-last."""
    return pixels.permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)


def colour_components(covariance: np.ndarray, law: str) -> np.ndarray:
    """(C, C) of the channels, in units of 0 to 255 -> (C, C), a column for each principal component, as long
    as one standard deviation of the draw moves a pixel."""
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(0)
    largest = vectors[np.abs(vectors).argmax(0), range(len(values))]
    vectors = vectors * np.sign(largest)  # an eigenvector's sign is the library's whim
    return vectors * (np.sqrt(values) if law == "2012" else values / 255)
