"""Where images come from: `data.name`, `data.dir` of a config -> (training Images, test Images).

    fashion-mnist-sample   6,000 + 1,000 photographs of clothes, in the package: no download
    fashion-mnist          60,000 + 10,000, 28x28 grey, ten classes (Xiao, Rasul and Vollgraf 2017)
    cifar-10               50,000 + 10,000, 32x32 RGB, ten classes (Krizhevsky 2009)
    arrays                 your own, memory-mapped: train_images.npy and test_images.npy, uint8
                           (N, H, W, C), train_labels.npy and test_labels.npy, whole numbers
    synthetic              noise in the shape that the network reads, for tests and for measuring

With --data DIR, files are read from there and nothing is downloaded. Without it, torchvision
downloads to DOWNLOADS.
"""

import contextlib
import fcntl
import io
import socket
from pathlib import Path

import numpy as np

from alexnet2gpu.config import Data
from alexnet2gpu.data import idx
from alexnet2gpu.data.images import Images
from alexnet2gpu.kinds import text
from alexnet2gpu.network import Network

SAMPLE = Path(__file__).parent / "fashion_mnist_sample"
DOWNLOADS = Path.home() / ".cache" / "alexnet2gpu"


def load_images(data: Data, network: Network) -> tuple[Images, Images]:
    """The training and the test images that a config names, checked against its network and crop.

    Raises: ValueError if they are missing, unreadable, or not what the config needs.
    """
    load = {
        "fashion-mnist-sample": _sample,
        "fashion-mnist": _fashion_mnist,
        "cifar-10": _cifar_10,
        "arrays": _arrays,
        "synthetic": _synthetic,
    }[data.name]
    if data.dir is not None and data.name in ("fashion-mnist-sample", "synthetic"):
        raise ValueError(
            f"--data {data.dir}: data.name {data.name} reads no files: choose another with "
            "--set data.name=fashion-mnist, cifar-10 or arrays"
        )
    if data.dir is not None and not Path(data.dir).is_dir():
        raise ValueError(f"--data {data.dir}: there is no such directory")
    train, test = load(data, network)
    for images in (train, test):
        _check(images, data, network)
    return train, test


def _sample(data, network):
    return idx.read_folder(SAMPLE)


def _fashion_mnist(data, network):
    if data.dir is None:
        files = f"{', '.join(idx.FILES)} (compressed or not)"
        with _torchvision("Fashion-MNIST", files) as (datasets, first):
            datasets.FashionMNIST(DOWNLOADS, download=first)
    return idx.read_folder(Path(data.dir or DOWNLOADS))


def _cifar_10(data, network):
    with _torchvision("CIFAR-10", "cifar-10-batches-py") as (datasets, first):
        folder, download = data.dir or DOWNLOADS, first and data.dir is None
        parts = [datasets.CIFAR10(folder, train, download=download) for train in (True, False)]
    return tuple(Images(part.data, np.array(part.targets), classes=10) for part in parts)


@contextlib.contextmanager
def _torchvision(what, files):
    """Lend torchvision's datasets to one process of this machine at a time, and say whether it is
    the first: then it may download, and those that waited find the files there."""
    from torchvision import datasets  # takes a second, so only here

    timeout = socket.getdefaulttimeout()
    try:
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        with open(DOWNLOADS / ".lock", "w") as lock, contextlib.redirect_stdout(io.StringIO()):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                first = True
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_EX)
                first = False
            socket.setdefaulttimeout(5)
            yield datasets, first
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{what} is not there and could not be downloaded: put {files} into a folder and pass "
            "--data FOLDER, or --set data.name=fashion-mnist-sample, which is bundled "
            f"({reason})"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _arrays(data, network):
    if data.dir is None:
        raise ValueError("data.name arrays: say where they are with --data DIR")
    parts = []
    for part in ("train", "test"):
        arrays = []
        for kind in ("images", "labels"):
            file = Path(data.dir) / f"{part}_{kind}.npy"
            try:
                arrays.append(np.load(file, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise ValueError(f"{file}: unreadable: {error}") from None
        parts.append(arrays)
    classes = 1 + max(int(labels.max(initial=0)) for _, labels in parts)
    return tuple(Images(pixels, labels.astype(np.int64), classes) for pixels, labels in parts)


def _synthetic(data, network):
    """1,024 training and 256 test images, bordered if to be cropped; brightness is the class."""
    channels, side, _ = network.input
    side = data.crop + 8 if data.crop else side
    classes = _outputs(network)
    draw = np.random.default_rng(0)
    parts = []
    for count in (1024, 256):
        labels = draw.integers(classes, size=count)
        pixels = draw.integers(0, 128, (count, side, side, channels), dtype=np.uint8)
        pixels += (labels * 127 // classes).astype(np.uint8)[:, None, None, None]
        parts.append(Images(pixels, labels, classes))
    return tuple(parts)


def _outputs(network):
    return list(network.stages[-1].values())[-1].out


def _check(images, data, network):
    _, height, width, channels = images.pixels.shape
    crop = data.crop or height
    side = data.resize or crop
    who = f"data.name {data.name}: images"
    if channels != network.input[0]:
        raise ValueError(
            f"{who} have {channels} channels, but model.input says {network.input[0]}"
        )
    fits = crop <= min(height, width) and (data.crop or height == width)
    if not fits or (side, side) != network.input[1:]:
        raise ValueError(
            f"{who} of {height}x{width} pixels do not give the {text(network.input[1:])} of "
            "model.input: set data.crop or data.resize"
        )
    if images.classes > _outputs(network):
        raise ValueError(
            f"{who} are of {images.classes} classes, but the network has {_outputs(network)} "
            "outputs: set the `out` of its last layer"
        )
