"""The images of the ablations, as arrays (alexnet2gpu/data/arrays.py), four folders of each set:

    SET/choose                           to choose a rate: of the training images a sixth is held out, and is
                                         what is tested on
    SET/final                            all of them are trained on, the test images tested on
    SET/choose-centre, SET/final-centre  of every image its middle, as large as the crops of the others

Fashion-MNIST: 12,000 of the 60,000 training images, drawn once, and all 10,000 test images. Photographs: all.
"""

from pathlib import Path

import numpy as np

from alexnet2gpu.config.load import read_config
from alexnet2gpu.data.images import Images, middle
from alexnet2gpu.data.sources import load_images
from bench.ablations.arms import HERE

DRAW = 2012  # the seed of what is drawn
USED = {"fashion": 12_000, "cifar": 12_000}  # training images
HELD_OUT = 1 / 6


def prepare(name: str, settings: list[str], root: Path) -> Path:
    """The folder of a set below `root`, which is written if it is not there. `settings` name the images.
    Raises: ValueError if they cannot be read."""
    folder = root / name
    if (folder / "done").exists():
        return folder
    config = read_config(HERE / f"{name}.yaml", settings)
    train, test = load_images(config.data, config.model)
    order = np.random.default_rng(DRAW).permutation(len(train))[: USED.get(name)]
    held = int(len(order) * HELD_OUT)
    for crop, suffix in ((None, ""), (config.data.crop, "-centre")):
        choose, final = folder / f"choose{suffix}", folder / f"final{suffix}"
        write(choose, "train", train, order[held:], crop)
        write(choose, "test", train, order[:held], crop)
        write(final, "train", train, order, crop)
        write(final, "test", test, np.arange(len(test)), crop)
    (folder / "done").touch()
    return folder


def write(folder: Path, kind: str, images: Images, which: np.ndarray, crop: int | None) -> None:
    """Those images, `kind` train or test, and their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{kind}_images.npy", np.stack([middle(images.pixels[i, :], crop) for i in which]))
    np.save(folder / f"{kind}_labels.npy", images.labels[which])
