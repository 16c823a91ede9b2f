"""Which mode is the fastest: regions over the batch and the bandwidth between ranks.

Each region has the mode's name in it, where there is most room: colours only help to see its edge.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet2gpu.figures.page import WIDTH, pyplot, save

COLOURS = {
    "single": "#d8d8d8",
    "split": "#7fa6cf",
    "ddp": "#e2a33c",
    "grid": "#4f9d69",
    "hybrid": "#b9cfe6",
    "fsdp": "#d9663f",
    "zero1": "#9b7bb8",
    "pipeline": "#5fb3b3",
    "tensor": "#e3b5cf",
}


def draw_regions(
    title: str, batches: Sequence[float], rates: Sequence[float], fastest: Sequence[Sequence[str]], file: Path
) -> None:
    """`fastest[r][b]`: the mode at `rates[r]`, bytes a second, and `batches[b]`, images; both at least two,
    evenly spread over a logarithmic axis."""
    plt, names = pyplot(), list(COLOURS)
    cells = np.array([[names.index(mode) for mode in row] for row in fastest])
    figure, axes = plt.subplots(figsize=(WIDTH, 5), layout="constrained")
    colours = plt.matplotlib.colors.ListedColormap(list(COLOURS.values()))
    megabytes = np.array(rates) / 1e6
    axes.pcolormesh(
        batches, megabytes, cells, cmap=colours, vmin=-0.5, vmax=len(names) - 0.5, shading="nearest"
    )
    for kind in np.unique(cells):
        row, column = roomiest(cells == kind)
        place = {"ha": "center", "va": "center"}
        axes.text(batches[column], megabytes[row], names[kind], **place)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("batch: images of all ranks together")
    axes.set_ylabel("MB/s that a rank can send")
    axes.set_title(title)
    save(figure, file)


def roomiest(region: np.ndarray) -> tuple[int, int]:
    """Row and column of the cell, of a region (R, B) of booleans, that is farthest from its edge."""
    rows, columns = region.shape
    outside = np.argwhere(~np.pad(region, 1)) - 1  # the frame too
    inside = np.argwhere(region)
    apart = np.abs((inside[:, None] - outside[None]) / (rows, columns)).max(2).min(1)
    return tuple(inside[apart.argmax()])
