"""Training batches and evaluation batches: the images that each step sees.

A step takes the next `batch` images of the epoch's order (epoch.py); replica r of R takes the r-th part of
them, and all ranks of a replica see the same; unless there are `parts` of them, of which a rank sees its own
(ranks/modes.py, the hybrid), and the labels of all. Images that fill no batch at the end of an epoch
are left out of it.

A *view* is a crop of a test image: one, the centre; or ten, the four corners, the centre, and the mirror
images of these five.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import tensors
from alexnet2gpu.data.crops import Corners
from alexnet2gpu.data.epoch import draw_epoch
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.ranks.modes import Grid


class TrainBatches:
    """The training batches of one replica. On a GPU all of them are the same two tensors, filled anew, so
    that a CUDA graph finds them there."""

    def __init__(self, images: Images, config: Config, prepare: Preparation, grid: Grid = Grid()):
        self.images, self.config, self.prepare, self.grid = images, config, prepare, grid
        self.share = config.train.batch // grid.replicas
        self.steps = len(images) // config.train.batch  # in an epoch
        self.buffers = None, None

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B / parts, C, H, W), labels (B,) of the steps of `epoch` (from 1), from `first` on."""
        train, prepare = self.config.train, self.prepare
        table = draw_epoch(train.seed, epoch, self.images.pixels.shape, prepare.crop, self.config.data.flip)
        strength = self.config.colour_in(epoch)
        starts = [step * train.batch + self.grid.replica * self.share for step in range(first, self.steps)]
        chosen = [table.order[start : start + self.share] for start in starts]
        own = [_part(some, self.grid, train.accumulate) for some in chosen]
        corners = (Corners(some, table.top[some], table.left[some]) for some in own)
        crops = prepare.cut(self.images, corners)
        for some, seen in zip(chosen, own):  # crops get no name here: they would fill the GPU in the step
            images, labels = self.buffers
            x = prepare(next(crops), table.flip[seen], table.colour[seen], strength, out=images)
            labels = prepare.labels(self.images.labels[some], out=labels)
            if x.is_cuda:  # where work is done in order
                self.buffers = x, labels
            yield x, labels


def _part(some, grid, passes=1):
    """A rank's part of each pass of a batch: a pass then has the same images in every mode."""
    return some.reshape(passes, grid.parts, -1)[:, grid.part].ravel()


def check_batch(config: Config, grid: Grid, images: int) -> None:
    """Raises: ValueError if the global batch does not suit the replicas, the passes or the images."""
    train = config.train
    batch, parts = train.batch, grid.shares * train.accumulate
    if config.optim.zero1 and grid.replicas == 1:
        raise ValueError(
            "optim.zero1: shares momentum out over the replicas of --ddp; here is one: "
            "--set optim.zero1=false"
        )
    if config.optim.zero1 and grid.replicas > (most := tensors(config.model)):
        raise ValueError(f"optim.zero1: {most} parameters are not enough for {grid.replicas} replicas")
    if config.optim.fc_updates > 1 and grid.replicas > 1:
        without = "--set optim.fc_updates=1"
        raise ValueError(f"optim.fc_updates: for one device, --split-model or --hybrid, not --ddp: {without}")
    if by := train.undivided(grid.shares):
        by += " (train.accumulate)" * (train.accumulate > 1)
        raise ValueError(f"train.batch {batch} does not divide by {by}: make it a multiple of {parts}")
    if batch > images:
        less = max(1, images // (2 * parts)) * parts
        way_out = f"--set train.batch={less}, say" if less <= images else f"take {parts} or more"
        raise ValueError(f"train.batch {batch} is more than the {images} training images: {way_out}")


class EvaluationBatches:
    """The test images of one replica, every R-th; `views` of each, 1 or 10, and `size` views at a time at
    most, unless one image has more. Where they are in parts, all are equally large: the last image comes
    again. Raises: ValueError if ten views of these images are not to be had."""

    def __init__(self, images: Images, prepare: Preparation, size: int, grid: Grid = Grid(), views: int = 1):
        self.images, self.prepare, self.grid, self.views = images, prepare, grid, views
        self.chosen = np.arange(grid.replica, len(images), grid.replicas)
        self.images_at_once = max(1, size // views)
        most_images = -(-len(images) // grid.replicas)
        self.most = -(-most_images // self.images_at_once)  # batches of the replica that has most of them
        top, left = prepare.centre
        if views > 1 and not (top and left):
            raise ValueError(
                "--views 10: images are no larger than what the network reads, so their corners are their "
                "centre: set data.crop to less than their size"
            )
        others = [(0, 0), (0, 2 * left), (2 * top, 0), (2 * top, 2 * left)] if views > 1 else []
        self.corners = np.array([prepare.centre, *others])  # of the views that are not mirrored

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Views (B * views / parts, C, H, W), those of an image next to each other; labels (B,)."""
        starts = range(0, len(self.chosen), self.images_at_once)
        chosen = [self.chosen[start : start + self.images_at_once] for start in starts]
        own = [self._own(some) for some in chosen]
        crops = self.prepare.cut(self.images, map(self._corners_of, own))
        for some, seen in zip(chosen, own):
            flip = np.arange(len(seen) * self.views) % self.views >= len(self.corners)
            yield self.prepare(next(crops), flip), self.prepare.labels(self.images.labels[some])

    def _own(self, chosen):
        return _part(np.pad(chosen, (0, -len(chosen) % self.grid.parts), "edge"), self.grid)

    def _corners_of(self, chosen):
        mirrored_as_well = self.views // len(self.corners)  # 1 or 2
        top, left = np.tile(self.corners, (len(chosen) * mirrored_as_well, 1)).T
        return Corners(np.repeat(chosen, self.views), top, left)
