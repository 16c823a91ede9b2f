"""Where images come from: `data.name` and `data.dir` of a config -> (training Images, test Images).

    fashion-mnist-sample   6,000 + 1,000 photographs of clothes, in the package: no download
    fashion-mnist          60,000 + 10,000 of them, 28x28 grey (Xiao, Rasul and Vollgraf 2017), ten classes
    cifar-10               50,000 + 10,000 photographs, 32x32 RGB (Krizhevsky 2009), ten classes
    arrays                 your own: train_images.npy, train_labels.npy, test_images.npy, test_labels.npy in --data
                           DIR, images uint8 (N, H, W, C), labels whole numbers; memory-mapped, so of any size
    synthetic              noise in the shape that the network reads, for tests and for measuring

With --data DIR, files are read from there and nothing is downloaded. Without it, torchvision downloads to DOWNLOADS.
"""

import contextlib
import fcntl
import gzip
import io
import math
import socket
import zlib
from pathlib import Path

import numpy as np

from alexnet2gpu.config import Data
from alexnet2gpu.data.images import Images
from alexnet2gpu.network import Network

SAMPLE = Path(__file__).parent / "fashion_mnist_sample"
DOWNLOADS = Path.home() / ".cache" / "alexnet2gpu"
IDX_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def load_images(data: Data, network: Network) -> tuple[Images, Images]:
    """The training and the test images that a config names, checked against its network and crop.

    Raises: ValueError if they are missing, unreadable, or not what the config needs.
    """
    load = {"fashion-mnist-sample": _sample, "fashion-mnist": _fashion_mnist, "cifar-10": _cifar_10,
            "arrays": _arrays, "synthetic": _synthetic}[data.name]
    if data.dir is not None and data.name in ("fashion-mnist-sample", "synthetic"):
        raise ValueError(f"--data {data.dir}: data.name {data.name} reads no files: choose another with "
                         "--set data.name=fashion-mnist, cifar-10 or arrays")
    if data.dir is not None and not Path(data.dir).is_dir():
        raise ValueError(f"--data {data.dir}: there is no such directory")
    train, test = load(data, network)
    for images in (train, test):
        _check(images, data, network)
    return train, test


def read_idx(file: Path) -> np.ndarray:
    """Read a file of unsigned bytes in the IDX format, compressed or not: big-endian magic 0x0000080D for D
    dimensions, D sizes of 32 bits, the bytes. Raises: ValueError if it is anything else."""
    try:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: unreadable: {error}") from None
    dimensions = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], ">u4").tolist() if len(content) >= start else []
    if not dimensions or len(shape) != dimensions or len(content) - start != math.prod(shape):
        raise ValueError(f"{file}: not an IDX file of bytes, or cut short")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _idx_images(folder):
    files = []
    for name in IDX_FILES:
        places = [folder / "FashionMNIST" / "raw" / name, folder / name]
        found = [file for place in places for file in (place, place.with_name(name + ".gz")) if file.is_file()]
        if not found:
            raise ValueError(f"{folder}: no {name} or {name}.gz there")
        files.append(found[0])
    parts = []
    for images, labels in (files[:2], files[2:]):
        pixels = read_idx(images)
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        try:
            parts.append(Images(pixels, read_idx(labels).astype(np.int64), classes=10))
        except ValueError as error:
            raise ValueError(f"{images}: {error}") from None
    return tuple(parts)


def _sample(data, network):
    return _idx_images(SAMPLE)


def _fashion_mnist(data, network):
    if data.dir is None:
        with _torchvision("Fashion-MNIST", f"{', '.join(IDX_FILES)} (compressed or not)") as (datasets, first):
            datasets.FashionMNIST(DOWNLOADS, download=first)
    return _idx_images(Path(data.dir or DOWNLOADS))


def _cifar_10(data, network):
    with _torchvision("CIFAR-10", "cifar-10-batches-py") as (datasets, first):
        parts = [datasets.CIFAR10(data.dir or DOWNLOADS, train=train, download=first and data.dir is None)
                 for train in (True, False)]
    return tuple(Images(part.data, np.array(part.targets), classes=10) for part in parts)


@contextlib.contextmanager
def _torchvision(what, files):
    """Lend torchvision's datasets to one process of this machine at a time, and say whether it is the first: then it
    may download, and those that waited find the files there."""
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
        raise ValueError(f"{what} is not there and could not be downloaded: put {files} into a folder and pass --data "
                         f"FOLDER, or --set data.name=fashion-mnist-sample, which is bundled ({reason})") from None
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
    """1,024 training and 256 test images of the crop's size and a border of 8; the label is in the brightness."""
    channels, side, _ = network.input
    side = data.crop + 8 if data.crop else side
    classes = _outputs(network)
    draw = np.random.default_rng(0)
    parts = []
    for count in (1024, 256):
        labels = draw.integers(classes, size=count)
        noise = draw.integers(0, 128, size=(count, side, side, channels), dtype=np.uint8)
        parts.append(Images(noise + (labels * 127 // classes).astype(np.uint8)[:, None, None, None], labels, classes))
    return tuple(parts)


def _outputs(network):
    return list(network.stages[-1].values())[-1].out


def _check(images, data, network):
    _, *size, channels = images.pixels.shape
    crop = data.crop or min(size)
    side = data.resize or crop
    if channels != network.input[0]:
        raise ValueError(f"data.name {data.name}: images have {channels} channels, but model.input says {network.input[0]}")
    if min(size) < crop or (side, side) != network.input[1:] or (data.crop is None and size[0] != size[1]):
        raise ValueError(f"data.name {data.name}: images of {size[0]}x{size[1]} pixels do not give the {network.input[1]}x"
                         f"{network.input[2]} of model.input: set data.crop or data.resize")
    if images.classes > _outputs(network):
        raise ValueError(f"data.name {data.name}: {images.classes} classes, but the network has {_outputs(network)} outputs: "
                         f"set the `out` of its last layer")
