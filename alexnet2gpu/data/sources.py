"""Sources of images: `data.name`, `data.dir` of a config -> (training Images, test Images).

    fashion-mnist-sample   6,000 + 1,000 photographs of clothes, in the package: no download
    fashion-mnist          60,000 + 10,000, 28x28 grey, ten classes (Xiao, Rasul and Vollgraf 2017)
    cifar-10               50,000 + 10,000, 32x32 RGB, ten classes (Krizhevsky 2009)
    folder                 photographs in class folders, packed when they are first used: pack/
    arrays                 your own: arrays.py
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

from alexnet2gpu.config.keys import Config, Data
from alexnet2gpu.config.network import Network
from alexnet2gpu.config.text import shape_text
from alexnet2gpu.data.arrays import read_arrays
from alexnet2gpu.data.idx import IDX_FILES, read_idx_folder
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.pack.layout import Form
from alexnet2gpu.data.pack.reading import all_to_test, read_photographs
from alexnet2gpu.data.task import Learned
from alexnet2gpu.faults import files

SAMPLE = Path(__file__).parent / "fashion_mnist_sample"
DOWNLOADS = Path("~/.cache/alexnet2gpu")
FASHION_FILES = f"{', '.join(IDX_FILES)} (compressed or not)"
WITHOUT_DIR = {
    "folder": "say where the photographs are with --data DIR, or try random pixels with "
    "--set data.name=synthetic",
    "arrays": "say where they are with --data DIR",
}


def load_experiment(config: Config) -> tuple[Config, Images, Images]:
    """Of what `read_config` gives: the config, its network with an output for each class of its images; the
    training and the test images.

    Raises: ValueError, as `load_images`.
    """
    train, test = load_images(config.data, config.model)
    return config.of_classes(train.classes), train, test


def load_test_images(data: Data, network: Network, learned: Learned) -> Images:
    """Images to test a network on that has been trained, with the numbers that their classes have there: the
    test images of `data`; of photographs that are all in FOLDER/CLASS/* those held out, if it was trained on
    the others, else all of them.

    Raises: ValueError, as `load_images`, or if they are of a class that it has not learned.
    """
    if data.name != "folder" or data.dir is None or not Path(data.dir).is_dir():
        return learned.relabelled(load_images(data, network)[1])
    source, form = Path(data.dir), _form_of(data, network)
    to_test = all_to_test(source, form, learned.task.listing)
    if to_test:
        form = replace(form, grey_bits=learned.task.grey_bits)
    _, test = read_photographs(source, form, learned.check_known, to_test)
    _check_fit(test.shape, data, network)
    return learned.relabelled(test)


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
        "arrays": lambda: read_arrays(Path(data.dir)),
        "synthetic": lambda: _draw_noise(data, network),
    }[data.name]
    train, test = read()
    shape, test_shape = train.shape, test.shape
    _check_fit(shape, data, network)
    _check_classes(max(train.classes, test.classes), data, network)
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
    return tuple(Images(part.data, np.array(part.targets), 10, tuple(part.classes)) for part in parts)


def _read_photographs(data, network):
    form = _form_of(data, network)

    def check(classes):
        _check_fit(form.shape, data, network)
        _check_classes(len(classes), data, network)

    train, val = read_photographs(Path(data.dir), form, check)
    if train is None:
        raise ValueError(f"--data {data.dir}: there is no train/ in it, nor folders of classes, to train on")
    return train, val


def _form_of(data, network):
    return Form(data.store, data.size, channels=1 if network.input[0] == 1 else 3)


def _draw_noise(data, network):
    """512 training and 64 test images, bordered if to be cropped; brightness is the class."""
    channels, side, _ = network.input
    side = data.crop + 8 if data.crop else side
    outputs = network.last.out
    classes = data.classes if outputs == "classes" else min(data.classes, outputs)
    draw = np.random.default_rng(0)
    parts = []
    for count in (512, 64):
        labels = draw.integers(classes, size=count)
        pixels = draw.integers(0, 128, (count, side, side, channels), dtype=np.uint8)
        pixels += (labels * 127 // classes).astype(np.uint8)[:, None, None, None]
        parts.append(Images(pixels, labels, classes))
    return tuple(parts)


def _check_fit(shape, data, network):
    height, width, channels = shape
    crop = data.crop or height
    side = data.resize or crop
    who = f"data.name {data.name}: images"
    if channels != network.input[0]:
        raise ValueError(f"{who} have {channels} channels, but model.input says {network.input[0]}")
    fits = crop <= min(height, width) and (data.crop or height == width)
    if not fits or (side, side) != network.input[1:]:
        wanted = network.input[1]
        crop, resize = (wanted, "null") if wanted <= min(height, width) else (min(height, width), wanted)
        raise ValueError(
            f"{who} of {height}x{width} pixels do not give the {shape_text(network.input[1:])} of "
            f"model.input: --set data.crop={crop} --set data.resize={resize}"
        )


def _check_classes(found, data, network):
    who, outputs = f"data.name {data.name}: images are of {found} classes", network.last.out
    if outputs != "classes" and found > outputs:
        raise ValueError(f"{who}, but the network has {outputs} outputs: give its last layer `out: classes`")
