"""One photograph: a file -> pixels of the wanted shape."""

import contextlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alexnet2gpu.faults import files

# What Pillow reads itself: for PostScript it runs Ghostscript. TGA comes last, having no mark of its own.
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "MPO", "PPM", "ICO", "DDS", "PCX")
KINDS += ("QOI", "SGI", "TGA")
MOST_PIXELS = 2.5e7  # of a file of 10 MB or less, and so on: JPEG 2000 takes 18 bytes each, meanwhile
DEEP = {".png", ".tif", ".tiff", ".pgm", ".jp2"}  # files that may have more than 8 bits of grey
TURNED = 0x0112  # EXIF's orientation


def read_photograph(file: Path, shape: tuple[int, int, int], grey_bits: int = 16) -> np.ndarray:
    """Read a photograph, scale it until it just covers `shape` (H, W, C), crop its centre.

    RGB if C is 3, grey if it is 1. CMYK and palette images are converted, transparency is laid on white, and
    what a camera marked as turned is turned back; of an animation, the first picture. Grey of more than 8
    bits is taken to have `grey_bits`, of which the upper 8 stay. Scaling is Lanczos with as many taps as it
    takes, so nothing aliases. (The code of 2014 averaged areas; what scaled the images of 2012 is not
    known.)

    Returns: (H, W, C) uint8. Raises: ValueError naming the file, if it cannot be read.
    """
    try:
        with warnings.catch_warnings():  # Pillow's say that a photograph is large, or its remarks are damaged
            warnings.simplefilter("ignore")
            return _read(file, shape, grey_bits)
    except Exception as error:  # Pillow's plugins raise whatever they like
        kind, said = type(error).__name__, " ".join(str(error).split())
        if file.is_dir():
            said = "a folder, not a photograph"
        elif isinstance(error, FileNotFoundError):
            said = "there is no such file"
        elif kind == "UnidentifiedImageError":
            said = "not an image of a known kind"
        elif kind == "DecompressionBombError":
            said = "more pixels than a file of its size should have"
        elif not isinstance(error, ValueError | OSError):
            said = f"{kind}: {said}"
        raise ValueError(f"{file}: {said}") from None


def _read(file, shape, grey_bits):
    from PIL import Image

    height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(f"photographs have 3 channels, or 1, not {channels}")
    with _opened(file) as image:
        image.draft("RGB", (2 * max(height, width),) * 2)  # a JPEG may be decoded at half its size or less
        if image.width * image.height > max(MOST_PIXELS, 2.5 * os.stat(file).st_size):
            raise ValueError(f"{image.width}x{image.height} pixels, more than a file of its size should have")
        image = _upright(image)
        image = _to_rgb(image, grey_bits)
        if channels == 1:
            image = image.convert("L")
        scale = min(image.width / width, image.height / height)
        across, down = scale * width, scale * height  # of what stays
        left, top = (image.width - across) / 2, (image.height - down) / 2
        box = left, top, left + across, top + down
        pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))
        return pixels.reshape(shape)


@contextlib.contextmanager
def _opened(file):
    from PIL import Image

    Image.init()
    known = [kind for kind in KINDS if kind in Image.OPEN]
    with open(file, "rb", opener=files.regular) as opened, Image.open(opened, formats=known) as image:
        yield image


def _upright(image):
    """As the camera was held: of EXIF, which editors damage, that one number is read and nothing written."""
    from PIL import Image

    try:
        turned = image.getexif().get(TURNED)
    except Exception:  # Pillow's parser raises whatever it likes
        turned = None
    turn = Image.Transpose
    how = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    return image.transpose(how[turned]) if turned in how else image


def _to_rgb(image, grey_bits):
    from PIL import Image

    if image.mode.startswith("I"):  # grey of 16 bits, as PNG and TIFF have it, or of fewer
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("grey values beyond 16 bits")
        image = Image.fromarray((values >> (grey_bits - 8)).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("grey values that are not whole numbers")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def grey_bits_of(photographs: Iterable[Path]) -> int | None:
    """How many bits the deepest grey of some files uses, from 8 to 16: 16-bit files of a camera for X-rays
    have 12, say; None if there are no such files."""
    largest = None
    for file in photographs:
        if file.suffix.lower() not in DEEP:
            continue
        try:
            with _opened(file) as image:
                if image.mode.startswith("I") and image.width * image.height <= MOST_PIXELS:
                    largest = max(largest or 0, int(np.asarray(image).max()))
        except Exception:  # whoever reads it says so
            continue
    return None if largest is None else min(16, max(8, largest.bit_length()))
