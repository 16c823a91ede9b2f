"""Does the signal reach the classifier? AlexNet before its first step, on real photographs.

    python bench/start.py DIR [--config configs/alexnet.yaml] [--seeds 4]

DIR/train/ has photographs of the stored size (256x256) in class folders, of any kind that Pillow
(which comes with torchvision) reads. Prints, over a batch of
training crops less the mean image, dropout on:

- the loss with the photographs' labels, and its mean over all labels there are: with fewer classes
  of photographs than outputs, the first depends on which outputs they happen to use;
- how much fc6 differs between images: `h.std(0).mean() / h.mean()`, h (B, F) after ReLU, before
  dropout.

Expected of alexnet.yaml: loss 7.05 to 7.25 (ln 1000 = 6.91), fc6 0.24 to 0.29. Networks built from
the paper's text come to 0.03, and to 0.0007 with unit-variance input: no image reaches fc6, and
they are known to sit at a flat loss.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.config import load_config  # noqa: E402
from alexnet2gpu.data.batches import Preparation, TrainBatches  # noqa: E402
from alexnet2gpu.data.images import Images  # noqa: E402
from alexnet2gpu.model import AlexNet  # noqa: E402


def read_photographs(folder):
    """All images of a folder of class folders, as Images."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [
        (file, label) for label, path in enumerate(classes) for file in sorted(path.iterdir())
    ]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    return Images(pixels, np.array([label for _, label in files]), len(classes))


@torch.no_grad()
def start_of(config, images, mean):
    """Loss, its mean over all labels, and fc6's std / mean, over the first batch of the config's
    seed."""
    model = AlexNet(config.model, config.train.seed)
    model.seed_dropout(config.train.seed, 0, 0)
    prepare = Preparation(images.pixels.shape, mean, config, torch.device("cpu"))
    x, labels = next(TrainBatches(images, config, prepare, 0, 1).epoch(1))
    hidden = []
    for tower in model.towers.values():
        tower.get_submodule("relu6").register_forward_hook(
            lambda module, inputs, output: hidden.append(output)
        )
    logits = model(x)  # (B, classes)
    any_label = (logits.logsumexp(1) - logits.mean(1)).mean()
    h = torch.cat(hidden, 1)  # (B, F)
    return (
        F.cross_entropy(logits, labels).item(),
        any_label.item(),
        (h.std(0).mean() / h.mean()).item(),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photographs", type=Path, metavar="DIR")
    parser.add_argument("--config", default="configs/alexnet.yaml")
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    images = read_photographs(args.photographs / "train")
    mean = images.mean_image()
    print(f"{len(images)} photographs, {images.classes} classes")
    for seed in range(args.seeds):
        loss, any_label, signal = start_of(
            load_config(args.config, [f"train.seed={seed}"]), images, mean
        )
        print(
            f"seed {seed}: loss {loss:.3f}, over all labels {any_label:.3f}, "
            f"fc6 std / mean {signal:.3f}"
        )


if __name__ == "__main__":
    main()
