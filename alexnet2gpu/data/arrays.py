"""Images of one's own, memory-mapped:

train_images.npy, test_images.npy    uint8 (N, H, W, C)
train_labels.npy, test_labels.npy    whole numbers (N,), the first class 0
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet2gpu.config.keys import MOST_CLASSES
from alexnet2gpu.data.images import Images
from alexnet2gpu.faults import files


def read_arrays(folder: Path) -> tuple[Images, Images]:
    """Of as many classes as the largest label says. Raises: ValueError naming the file."""
    parts = []
    for name in ("train", "test"):
        pair = [folder / f"{name}_{kind}.npy" for kind in ("images", "labels")]
        arrays = [_map_array(file) for file in pair]
        try:
            parts.append(Images(*arrays, 2**31))  # for now
        except ValueError as error:
            raise ValueError(f"{pair[0]}, {pair[1].name}: {error}") from None
    classes = 1 + max(int(part.labels.max()) for part in parts)
    if classes > MOST_CLASSES:
        raise ValueError(f"{folder}: a label is {classes - 1:,}: labels should count classes from 0 on")
    return tuple(replace(part, classes=classes) for part in parts)


def _map_array(file):
    try:
        open(file, "rb", opener=files.regular).close()
        return np.lib.format.open_memmap(file, mode="r")  # np.load would take what is no array, too
    except Exception as error:  # numpy raises whatever it likes
        raise ValueError(f"{file}: unreadable: {str(error)[:300]}") from None
