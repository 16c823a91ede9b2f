"""What a trained network says of photographs: the likeliest classes, with their probabilities.

network = alexnet2gpu.load("runs/alexnet-split")
network.classes                         ["accordion", "airplanes", ...]
network.predict(["bird.jpg"])           [[("ibis", 0.81), ("flamingo", 0.11), ...]]
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet2gpu.data.images import Images
from alexnet2gpu.data.pack.photograph import read_photograph
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.runs.checkpoints.towers import load_network
from alexnet2gpu.runs.evaluate import Saved, Trained, find_saved

LIKELIEST = 5
Answers = list[list[tuple[str, float]]]  # of each photograph: names and probabilities, the likeliest first


class Classifier(AlexNet):
    """A trained network, which knows its classes."""

    saved: Saved

    @property
    def classes(self) -> list[str]:
        """Their names, in the order of the logits."""
        return list(self.saved.learned.task.names)

    def predict(self, files: Sequence[str | Path], views: int = 1) -> Answers:
        """The five likeliest classes of each photograph, as [(name, probability), ...], from one view, the
        centre, or from ten. Raises: ValueError if one cannot be read."""
        if views not in (1, 10):
            raise ValueError(f"views is {views}: should be 1 or 10")
        if not isinstance(files, str | Path) and not len(files):
            return []
        config, training, first = self.saved.config, self.training, next(self.parameters())
        prepare = Preparation(self.saved.learned, config, first.device, dtype=first.dtype)
        trained = Trained(config, self, prepare)
        try:
            return likeliest(self.classes, probabilities(trained, read(files, self.saved), views))
        finally:
            self.train(training)


def load_classifier(
    place: str | Path, config: str | None = None, overrides: Sequence[str] = ()
) -> Classifier:
    """Of the directory of a run or of a checkpoint; float32, on the CPU. Raises: ValueError, as
    `find_saved`."""
    saved = find_saved(Path(place), config, (*overrides, "train.precision=float32"))
    network = load_network(saved.config, saved.checkpoint, Classifier)
    network.saved = saved
    return network


def read(files: Sequence[str | Path], saved: Saved) -> Images:
    """Photographs, made as those were that the network has learned on; their labels say nothing. Raises:
    ValueError, naming the file, if one cannot be read."""
    task = saved.learned.task
    if isinstance(files, str | Path):
        files = [files]
    pixels = np.stack([read_photograph(Path(file), task.shape, task.grey_bits) for file in files])
    return Images(pixels, np.zeros(len(pixels), int), len(task.names), task.names)


def probabilities(trained: Trained, photographs: Images, views: int) -> np.ndarray:
    """(N, classes) float64."""
    return trained.classify(photographs, views=views)[0].exp().numpy()


def likeliest(classes: Sequence[str], found: np.ndarray) -> Answers:
    """Of what `probabilities` gives."""
    order = np.argsort(-found, axis=1, kind="stable")[:, :LIKELIEST]
    return [[(classes[at], float(row[at])) for at in best] for row, best in zip(found, order)]
