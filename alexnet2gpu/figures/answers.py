"""Answers of a network: the five likeliest classes of a few images, the paper's figure 4, left; and the
confusions, which class it takes for which."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet2gpu.data.images import Images
from alexnet2gpu.figures.page import OTHER, RIGHT, WIDTH, picture, pyplot, save, short

LIKELIEST = 5  # classes of an answer that are shown
NAMED = 25  # classes whose names still fit the axes of the matrix of confusions


def draw(images: Images, chosen: Sequence[int], probabilities: np.ndarray, file: Path) -> None:
    """Each chosen image under the name of its class, and below it the likeliest classes, five if there are
    as many, with their probabilities, of `probabilities` (N, outputs) of all N images, as bars, the true one
    in another colour."""
    labels = images.labels[chosen]
    titles = [images.names[label] for label in labels]
    pixels = [images.pixels[image, :, :] for image in chosen]
    figure = _draw(pixels, titles, labels, images.names, probabilities[chosen])
    handles = [pyplot().Rectangle((0, 0), 1, 1, color=colour) for colour in (RIGHT, OTHER)]
    figure.legend(handles, ["the true class", "another"], loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Validation images, and the probabilities of the likeliest classes", fontsize=11)
    save(figure, file)


def draw_photographs(images: Images, probabilities: np.ndarray, titles: Sequence[str], file: Path) -> None:
    """The same of images whose classes are not known, under other titles."""
    unknown = [None] * len(images)
    save(_draw(images.pixels, titles, unknown, images.names, probabilities), file)


def _draw(pixels, titles, labels, names, probabilities):
    plt, chosen, bars = pyplot(), range(len(pixels)), min(LIKELIEST, probabilities.shape[1])
    across = min(4, len(chosen))
    down = -(-len(chosen) // across)
    heights = [1.9, 0.2 * bars] * down  # inches; and 0.3 for the title of each image, 0.4 for those of all
    size = WIDTH / 4 * across, sum(heights) + 0.3 * down + 0.4
    look = {"layout": "constrained", "height_ratios": heights, "squeeze": False}
    figure, grid = plt.subplots(2 * down, across, figsize=size, **look)
    for axes in grid.flat:
        axes.set_axis_off()
    for number in chosen:
        row, column = divmod(number, across)
        above = grid[2 * row, column]
        above.imshow(picture(pixels[number]))
        above.set_title(short(titles[number], 24), fontsize=9)
        _draw_bars(grid[2 * row + 1, column], names, labels[number], probabilities[number])
    return figure


def _draw_bars(axes, names, label, probabilities):
    """Names lie over the bars, where they have the whole width."""
    likeliest = np.argsort(-probabilities, kind="stable")[:LIKELIEST]
    for row, answer in enumerate(likeliest):
        share = probabilities[answer]
        axes.barh(row, share, 0.85, color=RIGHT if answer == label else OTHER)
        axes.text(0.02, row, short(names[answer], 22), va="center", fontsize=8)
        axes.text(0.99, row, f"{share:.1%}", va="center", ha="right", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(likeliest) - 0.4, -0.6)


def confusion(labels: np.ndarray, answered: np.ndarray, classes: int) -> np.ndarray:
    """Labels (N,) and answers (N,), each in 0 .. classes - 1 -> (classes, classes): how many images of a
    row's class were taken for the column's."""
    pairs = np.bincount(labels * classes + answered, minlength=classes**2)
    return pairs.reshape(classes, classes)


def confusion_of(images: Images, probabilities: np.ndarray) -> np.ndarray:
    """`confusion` of images whose classes have these probabilities (N, outputs)."""
    answered = probabilities.argmax(1)
    return confusion(images.labels, answered, max(images.classes, answered.max() + 1))


def most_confused(counts: np.ndarray, most: int) -> Sequence[tuple[int, int, int]]:
    """The most frequent mistakes of a matrix of `confusion`, at most so many: (true class, the one it was
    taken for, how many images)."""
    wrong = counts - np.diag(np.diag(counts))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(index), len(counts)) for index in largest]
    return [(true, taken, int(wrong[true, taken])) for true, taken in pairs if wrong[true, taken]]


def draw_confusion(counts: np.ndarray, images: Images, file: Path) -> None:
    """The matrix of confusions, (classes, classes) of `confusion`, each row as shares of its class's images,
    and the most frequent confusions by name; `images` has the classes' names."""
    plt = pyplot()
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    look = {"figsize": (WIDTH, 4.9), "layout": "constrained", "width_ratios": [2.6, 1]}
    figure, (axes, beside) = plt.subplots(1, 2, **look)
    shown = axes.imshow(100 * shares, vmin=0, vmax=100, cmap="Blues", interpolation="nearest")
    figure.colorbar(shown, ax=beside, label="% of the true class's images", location="bottom")
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    if classes <= NAMED:
        names = [short(images.names[label], 20) for label in range(classes)]
        axes.set_xticks(range(classes), names, rotation=90, fontsize=8)
        axes.set_yticks(range(classes), names, fontsize=8)
    right = np.trace(counts) / max(counts.sum(), 1)
    axes.set_title(f"{counts.sum():,} validation images, {right:.1%} right", fontsize=11)
    lines = ["Most frequent confusions", ""]
    for true, taken, count in most_confused(counts, 10):
        true_name, taken_name = (short(images.names[label], 22) for label in (true, taken))
        lines.append(f"{true_name}: {count} of {counts[true].sum()}\n  taken for {taken_name}")
    beside.text(0, 1, "\n".join(lines), va="top", fontsize=8.5, in_layout=False)
    beside.set_axis_off()
    save(figure, file)
