"""Sources of images: `data.name`, `data.dir` of a config -> (training Images, test Images).

    fashion-mnist-sample   6,000 + 1,000 photographs of clothes, in the package: no download
    fashion-mnist          60,000 + 10,000, 28x28 grey, ten classes (Xiao, Rasul and Vollgraf 2017)
    cifar-10               50,000 + 10,000, 32x32 RGB, ten classes (Krizhevsky 2009)
    folder                 photographs in class folders, packed when they are first used: pack/
    arrays                 your own, memory-mapped: train_images.npy and test_images.npy, uint8
                           (N, H, W, C), train_labels.npy and test_labels.npy, whole numbers
    synthetic              noise in the shape that the network reads, for tests and for measuring

With --data DIR, files are read from there and nothing is downloaded. Without it, torchvision downloads to
DOWNLOADS.
"""

import contextlib
import fcntl
import io
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet2gpu.config.keys import Data
from alexnet2gpu.config.network import Network
from alexnet2gpu.config.text import shape_text
from alexnet2gpu.data.idx import IDX_FILES, read_idx_folder
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.pack.growth import Form
from alexnet2gpu.data.pack.layout import is_pack, pack_of, read_pack
from alexnet2gpu.data.pack.packing import make_pack
from alexnet2gpu.data.pack.photographs import classes_of
from alexnet2gpu.faults import files

SAMPLE = Path(__file__).parent / "fashion_mnist_sample"
DOWNLOADS = Path("~/.cache/alexnet2gpu")
MOST_CLASSES = 2**31  # a layer has no more outputs
FASHION_FILES = f"{', '.join(IDX_FILES)} (compressed or not)"
WITHOUT_DIR = {
    "folder": "say where the photographs are with --data DIR, or try random pixels with "
    "--set data.name=synthetic",
    "arrays": "say where they are with --data DIR",
}


def load_images(data: Data, network: Network) -> tuple[Images, Images]:
    """The training and the test images that a config names, checked against its network and crop.

    Raises: ValueError if they are missing, unreadable, or not what the config needs.
    """
    if data.dir is None and data.name in WITHOUT_DIR:
        raise ValueError(f"data.name {data.name}: {WITHOUT_DIR[data.name]}")
    if data.dir is not None and data.name in ("fashion-mnist-sample", "synthetic"):
        raise ValueError(
            f"--data {data.dir}: data.name {data.name} reads no files: choose another with "
            "--set data.name=folder, fashion-mnist, cifar-10 or arrays"
        )
    if data.dir is not None and not Path(data.dir).is_dir():
        raise ValueError(f"--data {data.dir}: there is no such directory, to read images from")
    read = {
        "fashion-mnist-sample": lambda: read_idx_folder(SAMPLE),
        "fashion-mnist": lambda: _published(data.dir, _read_fashion_mnist, "Fashion-MNIST", FASHION_FILES),
        "cifar-10": lambda: _published(data.dir, _read_cifar_10, "CIFAR-10", "cifar-10-batches-py"),
        "folder": lambda: _read_photographs(data, network),
        "arrays": lambda: _read_arrays(Path(data.dir)),
        "synthetic": lambda: _draw_noise(data, network),
    }[data.name]
    train, test = read()
    shape, test_shape = train.pixels.shape[1:], test.pixels.shape[1:]
    _check_fit(shape, max(train.classes, test.classes), data, network)
    if shape != test_shape:
        raise ValueError(
            f"data.name {data.name}: training images are {shape_text(shape)}, test images "
            f"{shape_text(test_shape)}: make them alike"
        )
    return train, test


def _published(folder, read, title, wanted):
    """What `read` finds in the folder, or in DOWNLOADS: of several processes on a machine the first to come
    downloads, and the others wait until the files are there."""
    if folder is not None:
        return read(Path(folder), download=False)
    timeout = socket.getdefaulttimeout()
    try:
        folder = DOWNLOADS.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w", opener=files.regular)
        with lock, contextlib.redirect_stdout(io.StringIO()):
            first = True
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_EX)
                first = False
            socket.setdefaulttimeout(5)
            return read(folder, download=first)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{title} is not there and could not be downloaded: put {wanted} into a folder and pass "
            f"--data FOLDER, or --set data.name=fashion-mnist-sample, which is bundled ({reason})"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _read_fashion_mnist(folder, download):
    if download:
        from torchvision import datasets  # takes a second, so only here

        datasets.FashionMNIST(folder, download=True)
    return read_idx_folder(folder)


def _read_cifar_10(folder, download):
    """torchvision compares the files' checksums before it unpickles them."""
    from torchvision import datasets

    try:
        parts = [datasets.CIFAR10(folder, train, download=download) for train in (True, False)]
    except RuntimeError:
        raise ValueError(f"--data {folder}: no cifar-10-batches-py in it, or not whole") from None
    return tuple(Images(part.data, np.array(part.targets), classes=10) for part in parts)


def _read_photographs(data, network):
    source, size = Path(data.dir), data.size
    target = pack_of(source, data.store, size)
    if not is_pack(target):  # what would be found wrong with it afterwards, is found wrong now
        _check_fit((size, size, 3), len(classes_of(source)), data, network)
        make_pack(source, target, Form(data.store, size))
    return read_pack(target)


def _read_arrays(folder):
    parts = []
    for name in ("train", "test"):
        pair = [folder / f"{name}_{kind}.npy" for kind in ("images", "labels")]
        arrays = [_map_array(file) for file in pair]
        try:
            parts.append(Images(*arrays, MOST_CLASSES))
        except ValueError as error:
            raise ValueError(f"{pair[0]}, {pair[1].name}: {error}") from None
    classes = 1 + max(int(part.labels.max()) for part in parts)
    return tuple(replace(part, classes=classes) for part in parts)


def _map_array(file):
    try:
        open(file, "rb", opener=files.regular).close()
        return np.lib.format.open_memmap(file, mode="r")  # np.load would take what is no array, too
    except Exception as error:  # numpy raises whatever it likes
        raise ValueError(f"{file}: unreadable: {str(error)[:300]}") from None


def _draw_noise(data, network):
    """512 training and 64 test images, bordered if to be cropped; brightness is the class."""
    channels, side, _ = network.input
    side = data.crop + 8 if data.crop else side
    classes = _outputs(network)
    draw = np.random.default_rng(0)
    parts = []
    for count in (512, 64):
        labels = draw.integers(classes, size=count)
        pixels = draw.integers(0, 128, (count, side, side, channels), dtype=np.uint8)
        pixels += (labels * 127 // classes).astype(np.uint8)[:, None, None, None]
        parts.append(Images(pixels, labels, classes))
    return tuple(parts)


def _outputs(network):
    return list(network.stages[-1].values())[-1].out


def _check_fit(shape, classes, data, network):
    height, width, channels = shape
    crop = data.crop or height
    side = data.resize or crop
    who = f"data.name {data.name}: images"
    if channels != network.input[0]:
        raise ValueError(f"{who} have {channels} channels, but model.input says {network.input[0]}")
    fits = crop <= min(height, width) and (data.crop or height == width)
    if not fits or (side, side) != network.input[1:]:
        raise ValueError(
            f"{who} of {height}x{width} pixels do not give the {shape_text(network.input[1:])} of "
            "model.input: set data.crop or data.resize"
        )
    if classes > _outputs(network):
        raise ValueError(
            f"{who} are of {classes} classes, but the network has {_outputs(network)} "
            "outputs: set the `out` of its last layer"
        )
