"""Which images a step sees, cropped and mirrored how; and how pixels become the network's input.

For every epoch a table is drawn from (seed, epoch): a permutation of the images, and for each
image the place of its crop and whether it is mirrored. A step takes the next `batch` images of the
permutation; replica r of R takes the r-th part of them. So image i looks the same in an epoch
whatever the mode, the number of ranks or the step at which a run was resumed. Images that fill no
batch at the end of an epoch are left out of it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet2gpu.config import Config
from alexnet2gpu.data.images import Images
from alexnet2gpu.precision import weight_dtype
from alexnet2gpu.seeds import seed_of


class EpochTable(NamedTuple):
    """Order of the images (N,); of each its crop's corner, top and left (N,), and flip (N,)."""

    order: np.ndarray
    top: np.ndarray
    left: np.ndarray
    flip: np.ndarray


def draw_epoch(seed: int, epoch: int, shape: Sequence[int], crop: int, flip: bool) -> EpochTable:
    """The table of an epoch, for images of `shape` (N, H, W, C); all places are equally likely."""
    draw = np.random.default_rng(seed_of(seed, "epoch", epoch))
    count, height, width, _ = shape
    return EpochTable(
        order=draw.permutation(count),
        top=draw.integers(height - crop + 1, size=count),
        left=draw.integers(width - crop + 1, size=count),
        flip=draw.random(count) < (0.5 if flip else 0),
    )


def cut(
    images: Images, indices: np.ndarray, top: np.ndarray, left: np.ndarray, crop: int
) -> Tensor:
    """Crops (B, crop, crop, C) uint8 of images `indices` (B,), corners at `top`, `left` (B,)."""
    out = np.empty((len(indices), crop, crop, images.pixels.shape[3]), np.uint8)
    for place, (i, y, x) in enumerate(zip(indices.tolist(), top.tolist(), left.tolist())):
        out[place] = images.pixels[i, y : y + crop, x : x + crop]
    return torch.from_numpy(out)


class Preparation:
    """Pixels -> network input, a batch at a time, on the device.

    `mean` is the mean training image (H, W, C), to be subtracted, or None. Of a larger one its
    centre is, wherever the crop was cut, as in the code of 2012.

    Args:
        shape: (N, H, W, C) of the images that crops are cut from.
    """

    def __init__(
        self, shape: Sequence[int], mean: np.ndarray | None, config: Config, device: torch.device
    ):
        _, height, width, _ = shape
        self.crop = config.data.crop or height
        self.centre = (height - self.crop) // 2, (width - self.crop) // 2
        self.divide, self.resize = config.data.divide, config.data.resize
        self.device, self.dtype = device, weight_dtype(config.train.precision)
        top, left = self.centre
        self.mean = None
        if mean is not None:
            mean = torch.from_numpy(mean[top : top + self.crop, left : left + self.crop])
            self.mean = self._to_device(mean).permute(2, 0, 1).to(self.dtype)

    def __call__(self, pixels: Tensor, flip: Tensor | None = None) -> Tensor:
        """(B, crop, crop, C) uint8 and, to mirror, (B,) bool -> (B, C, H, W) float."""
        x = self._to_device(pixels).permute(0, 3, 1, 2)
        x = x.to(self.dtype, memory_format=torch.contiguous_format)
        if flip is not None:
            x = torch.where(self._to_device(flip)[:, None, None, None], x.flip(3), x)
        if self.mean is not None:
            x = x - self.mean
        if self.divide != 1:
            x = x / self.divide
        if self.resize:
            x = F.interpolate(x, size=(self.resize, self.resize), mode="bilinear")
        return x

    def labels(self, labels: np.ndarray) -> Tensor:
        """(B,) on the device."""
        return self._to_device(torch.from_numpy(labels))

    def _to_device(self, tensor):
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


class TrainBatches:
    """The training batches of one replica."""

    def __init__(
        self, images: Images, config: Config, prepare: Preparation, replica: int, replicas: int
    ):
        self.images, self.config, self.prepare = images, config, prepare
        self.replica, self.share = replica, config.train.batch // replicas
        self.steps = len(images) // config.train.batch  # in an epoch

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W), labels (B,) of the steps of `epoch` (from 1), from `first` on."""
        data, train, crop = self.config.data, self.config.train, self.prepare.crop
        table = draw_epoch(train.seed, epoch, self.images.pixels.shape, crop, data.flip)
        for step in range(first, self.steps):
            start = step * train.batch + self.replica * self.share
            chosen = table.order[start : start + self.share]
            pixels = cut(self.images, chosen, table.top[chosen], table.left[chosen], crop)
            flip = torch.from_numpy(table.flip[chosen]) if data.flip else None
            yield self.prepare(pixels, flip), self.prepare.labels(self.images.labels[chosen])


class EvaluationBatches:
    """The test images of one replica, every R-th, centres cropped, at most `size` at a time."""

    def __init__(
        self, images: Images, prepare: Preparation, size: int, replica: int, replicas: int
    ):
        self.images, self.prepare, self.size = images, prepare, size
        self.chosen = np.arange(replica, len(images), replicas)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.chosen), self.size):
            chosen = self.chosen[start : start + self.size]
            top, left = (np.full(len(chosen), corner) for corner in self.prepare.centre)
            pixels = cut(self.images, chosen, top, left, self.prepare.crop)
            yield self.prepare(pixels), self.prepare.labels(self.images.labels[chosen])
