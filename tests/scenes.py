"""What several tests share: small photographs, the plain loop over them, and kills."""

import builtins
import os
import signal
from concurrent.futures import Future

import numpy as np
from PIL import Image

SIZE = 24
LABELS = {"Dog": 0, "cat": 1, "emu": 2}
SHAPES = [(24, 24), (60, 31), (31, 60), (90, 7), (5, 40), (10, 9), (1, 1), (48, 48), (25, 24)]


def scene(width, height, seed):
    """A photograph of (height, width, 3): colours that change slowly, and some noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 17
    waves = [np.sin(draw.uniform(0, 6) + a * x + b * y) for a, b in draw.uniform(-1, 1, (3, 2))]
    return np.uint8(128 + 90 * np.stack(waves, 2) + draw.normal(0, 8, (height, width, 3)))


def write(file, seed, shape=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(*(shape or SHAPES[seed % len(SHAPES)]), seed)).save(file)


def write_folder(folder):
    """Photographs of odd shapes; names whose order is not that in which they were written."""
    names = ["b.jpg", "A.png", "10.jpg", "9.jpg", "deep/1.png", "a b.jpeg", "ü.png"]
    seed = 0
    for part, classes in {"train": ["emu", "cat", "Dog"], "val": ["emu", "cat"]}.items():
        for name in classes:
            for file in names if part == "train" else names[:3]:
                write(folder / part / name / file, seed)
                seed += 1
    return folder


def squares(folder, part, labels, size=SIZE):
    """The plain loop: pixels (N, size, size, 3) and labels, class by class, name by name."""
    pixels, numbers = [], []
    for name in sorted(labels):
        for file in sorted((folder / part / name).rglob("*.*"), key=lambda f: (str(f.parent), f)):
            image = Image.open(file).convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = left, top, left + side, top + side
            pixels.append(np.asarray(image.resize((size, size), Image.LANCZOS, box)))
            numbers.append(labels[name])
    return np.stack(pixels), numbers


class InThisProcess:
    """In place of the worker processes, where these are not what is tested: quicker."""

    def __init__(self, *how):
        pass

    def submit(self, function, *args):
        done = Future()
        done.set_result(function(*args))
        return done

    def shutdown(self, **how):
        pass


class Killed(BaseException):
    pass


def kill(*args, **how):
    """In place of a function: the process is killed when it gets there."""
    raise Killed


def die_at_byte(number):
    """From now on this process is killed when it writes byte `number` of all files together."""
    left, opened = number, builtins.open

    def write(file, content):
        nonlocal left
        content = bytes(content)
        if len(content) > left:
            file.raw.write(content[:left])
            os.kill(os.getpid(), signal.SIGKILL)
        left -= len(content)
        return type(file).write(file, content)

    def open_(*args, **how):
        file = opened(*args, **how)
        return Counted(file, write) if file.writable() else file

    builtins.open = open_


class Counted:
    """A file whose writing is another function's."""

    def __init__(self, file, write):
        self.file, self.write = file, lambda content: write(file, content)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
