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
from alexnet2gpu.data.crops import Corners, cut_ahead, threads_for
from alexnet2gpu.data.images import Images, middle
from alexnet2gpu.data.on_gpu import keep_those_that_fit
from alexnet2gpu.data.task import Learned
from alexnet2gpu.model.device import gpus, has_triton
from alexnet2gpu.model.precision import weight_dtype

CACHED_ELEMENTS = 2**18  # at a time on the CPU, so that they stay in its cache from one pass to the next


def find_statistics(images: Images, data: Data) -> None:
    """Find the mean and the colours of training images, if they are wanted and not known: for ranks to do
    before they wait for each other, since with large arrays it takes minutes."""
    if data.mean == "image" or data.colour:
        images.mean_image()


class Preparation:
    """See above; of the training `images`, mean and colours count. What is subtracted is the centre of the
    mean image, wherever a crop was cut, as in the code of 2012. For testing, what a run has left of them
    will do. `ranks` are on this machine; what it gives is of `dtype`, or as train.precision has it."""

    def __init__(
        self,
        images: Images | Learned,
        config: Config,
        device: torch.device,
        ranks: int = 1,
        dtype: torch.dtype | None = None,
    ):
        self.data, self.ranks, self.kernel, self.kept = config.data, ranks, None, []
        height, width, _ = images.shape
        self.crop = self.data.crop or height
        self.centre = (height - self.crop) // 2, (width - self.crop) // 2
        self.device, self.dtype = device, dtype or weight_dtype(config.train.precision)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if device.type == "cuda" and self.dtype == torch.float32 and has_triton():
            from alexnet2gpu.data import prepare_kernel

            self.kernel = prepare_kernel
        self.mean = None
        if self.data.mean == "image":
            if (mean := images.mean_image()) is None:
                raise ValueError("data.mean image: the run has left no mean image, its data.mean was none")
            mean = middle(mean, self.crop).reshape(self.crop, -1)
            mean = self._to_device(torch.from_numpy(mean)).to(self.dtype)
            self.mean = mean.contiguous()  # (crop, crop * C), as the kernel reads it
        if self.data.colour and isinstance(images, Images):
            self.components = colour_components(images.colour_covariance(), self.data.colour_law)

    def keep(self, *sets: Images) -> None:
        """From now on, those of the sets that the GPU has room for are there: on_gpu.py. Without a kernel to
        cut them there, none. Raises: ValueError if an image cannot be read."""
        if self.data.on_gpu and self.kernel:
            sharing = -(-self.ranks // max(1, gpus()))
            self.kept = keep_those_that_fit(sets, self.device, sharing)

    def cut(self, images: Images, batches: Iterable[Corners]) -> Iterator[Tensor | tuple[Tensor, Corners]]:
        """The crops (B, crop, crop, C) uint8 of each of `batches`, each to be prepared before the next is
        asked for; if the images are kept on the GPU, all of them, and the crops still to be cut."""
        for kept, pixels in self.kept:
            if kept is images:
                return ((pixels, corners) for corners in batches)
        threads = self.data.threads or threads_for(self.device, self.ranks)
        return cut_ahead(images, batches, self.crop, threads, self.stream)

    def __call__(
        self,
        pixels: Tensor | tuple[Tensor, Corners],
        flip: np.ndarray | None = None,
        colour: np.ndarray | None = None,
        strength: float = 0,
        out: Tensor | None = None,
    ) -> Tensor:
        """What `cut` gives -> (B, C, H, W) float on the device, with channels last in memory.

        Args:
            flip: (B,) bool, which ones to mirror; None for none.
            colour: (B, C), how far to move each along the components, in standard deviations.
            strength: of the colour's movement; 0 leaves it alone.
            out: where to put it, and what is returned then.
        """
        divisor, moved = self.data.divide, None
        if strength:
            divisor *= 1 + strength if self.data.colour_law == "2012" else 1
            moved = strength * colour @ self.components.T / divisor  # (B, C)
        if self.kernel:
            x = self._in_one_pass(pixels, flip, moved, divisor, None if self.data.resize else out)
        else:
            x = self._by_operations(pixels, flip, moved, divisor)
        if self.data.resize:
            x = F.interpolate(x, size=(self.data.resize, self.data.resize), mode="bilinear")
        return x if out is None or x is out else out.copy_(x)

    def _in_one_pass(self, pixels, flip, moved, divisor, out):
        """As `_by_operations`, by the kernel, which cuts too: into `out`, if there is one."""
        source, corners = pixels if isinstance(pixels, tuple) else (pixels, None)
        _, height, width, channels = source.shape
        index, top, left = corners or (np.arange(len(source)), 0, 0)  # else they are cut already
        where = np.zeros((len(index), 2), np.int64)
        where[:, 0] = ((index * height + top) * width + left) * channels
        where[:, 1] = 0 if flip is None else flip
        if out is None:
            side = self.crop if corners else height
            out = source.new_empty(len(where), side, side, channels, dtype=self.dtype).permute(0, 3, 1, 2)
        if moved is not None:
            moved = self._to_device(torch.from_numpy(moved).to(self.dtype))
        where = self._to_device(torch.from_numpy(where))
        self.kernel.prepare(source, where, moved, self.mean, float(divisor), out)
        return out

    def _by_operations(self, pixels, flip, moved, divisor):
        """(B, crop, crop, C) -> (B, C, crop, crop), by torch's operations."""
        count, crop, _, channels = pixels.shape
        offset = None
        if moved is not None:
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
        return x.view(count, crop, crop, channels).permute(0, 3, 1, 2)

    def _mirror(self, pixels, flip, some):
        """(b, crop, crop, C) with those mirrored that `flip[some]` says."""
        chosen = np.flatnonzero(flip[some]) if flip is not None else []
        if not len(chosen):
            return pixels
        if len(chosen) == len(pixels):
            return _mirrored(pixels)
        chosen = self._to_device(torch.from_numpy(chosen))
        return pixels.index_copy(0, chosen, _mirrored(pixels.index_select(0, chosen)))

    def labels(self, labels: np.ndarray, out: Tensor | None = None) -> Tensor:
        """(B,) on the device, in `out` if there is one."""
        return self._to_device(torch.from_numpy(np.asarray(labels, np.int64)), out)

    def _to_device(self, tensor, out=None):
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        if out is not None:
            return out.copy_(tensor, non_blocking=True)
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
