"""The page that all figures share: matplotlib, which may be missing, and a few ways of writing.

matplotlib is the extra `plots`. It is imported only when something is drawn, so that whoever draws nothing
needs neither the package nor the second that it takes to start."""

import importlib.util
from pathlib import Path

import numpy as np

WIDTH = 8.3  # inches of a page: shown 830 pixels wide, as on GitHub, 8 points are 11 pixels
RIGHT, OTHER = "#d9663f", "#b9cfe6"  # the true class, and any other


def has_matplotlib() -> bool:
    """Whether anything can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def pyplot():
    """matplotlib.pyplot, drawing into files and never into a window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure, file: Path) -> None:
    """Write a figure of `pyplot` and let go of its memory."""
    figure.savefig(file, dpi=150)
    pyplot().close(figure)


def short(name: str, most: int) -> str:
    """The name with `most` characters at most, an ellipsis instead of the rest; a $ stands for itself, where
    matplotlib would begin a formula."""
    name = name if len(name) <= most else name[: most - 1].rstrip() + "…"
    return name.replace("$", r"\$")


def picture(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 -> (H, W, 3) for an eye: RGB as it is, of other channels the mean."""
    if pixels.shape[2] == 3:
        return pixels
    grey = np.asarray(pixels).mean(2, keepdims=True).round().astype(np.uint8)
    return grey.repeat(3, axis=2)


def spread(count: int, most: int) -> np.ndarray:
    """Indices of `most` of `count` images, evenly spread, in order; all if there are no more."""
    most = min(count, most)
    return ((np.arange(most) + 0.5) * count / most).astype(int)
