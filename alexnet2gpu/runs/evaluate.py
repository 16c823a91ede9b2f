"""Top-1 and top-5 errors on held-out images, from one view of each or the mean of ten.

Every rank takes part: in a split no rank can run the network alone. What is averaged over views, and over
networks, are probabilities; so it was in 2012 for both.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.load import read_config
from alexnet2gpu.data.batches import EvaluationBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.data.task import Learned, read_learned
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.precision import computing_in, ready
from alexnet2gpu.ranks.assemble import build_model
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.runs.checkpoints.format import config_of, newest_checkpoint, read_state
from alexnet2gpu.runs.checkpoints.towers import load_network, read_towers, restore


def check_images(images: Images, replicas: int) -> None:
    """Raises: ValueError if there are not enough test images for every replica to have one."""
    if len(images) < replicas:
        few = f"{len(images)} test images for {replicas} replicas"
        raise ValueError(f"{few}: each needs one at least: take fewer processes")


def evaluate(
    model: AlexNet, batches: EvaluationBatches, ranks: Ranks, precision: str, told_to_stop: Callable[[], int]
) -> list[float] | None:
    """The sums of `errors` over all images, of which each replica sees a share; the same on every rank; None
    if told to stop. `told_to_stop` is called equally often on all ranks, and gives the same on all."""
    sums, own = 0, log_probabilities(model, batches, precision)
    for _ in range(batches.most):
        batch = next(own, None)
        if batch is not None:  # other replicas may have one more
            sums = sums + errors(*batch)
        if told_to_stop():
            return None
    return ranks.sum_over_replicas(sums).tolist()


@torch.no_grad()
def log_probabilities(
    model: AlexNet, batches: EvaluationBatches, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logarithms of the classes' probabilities (B, classes) in float64, averaged over the views of each of B
    images; labels (B,). Outputs that stand for no class are left out."""
    classes = batches.images.classes
    model.eval()
    for views, labels in batches:
        with computing_in(precision, views.device):
            logits = model(views).double()[: len(labels) * batches.views, :classes]  # (B * views, classes)
        log_p = F.log_softmax(logits, dim=1).unflatten(0, (len(labels), -1))
        yield log_p.logsumexp(1) - math.log(batches.views), labels


def errors(log_p: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (B, classes), labels (B,) -> (4 + classes,) float64, sums over the images: loss,
    top-1 errors, top-5 errors, images, and those that are taken for each class."""
    answers = log_p.topk(min(5, log_p.shape[1])).indices  # (B, 5)
    right = answers == labels[:, None]
    loss = F.nll_loss(log_p, labels, reduction="sum")
    sums = loss, (~right[:, 0]).sum(), (~right.any(1)).sum(), loss.new_tensor(len(labels))
    return torch.cat([torch.stack(sums), answers[:, 0].bincount(minlength=log_p.shape[1])])


def mean_errors(sums: Sequence[float]) -> dict[str, float]:
    """Of the sums of `errors`: test_loss, top1_error and, of more than five classes, top5_error; errors are
    fractions of 1."""
    loss, top1, top5, count, *answers = sums
    figures = {"test_loss": loss / count, "top1_error": top1 / count}
    return figures | ({"top5_error": top5 / count} if len(answers) > 5 else {})


def collapse(sums: Sequence[float], names: Sequence[str]) -> list[str]:
    """By the sums of `errors`: what to say of a network that takes all images for one class, in lines."""
    _, _, _, count, *answers = sums
    if count not in answers:
        return []
    name = names[answers.index(count)]
    return [
        f"all {count:.0f} test images are taken for {name}: nothing is told apart yet, or any more",
        "if it stays so: lower rates (optim.schedule), and launch/diagnose.py on this config",
    ]


def words(figures: Mapping[str, float]) -> str:
    """The errors among the figures of `mean_errors`."""
    top5 = f", top-5 error {figures['top5_error']:.2%}" if "top5_error" in figures else ""
    return f"top-1 error {figures['top1_error']:.2%}{top5}"


class Trained(NamedTuple):
    """A trained network, in evaluation mode, and how its images are prepared."""

    config: Config
    model: AlexNet
    prepare: Preparation

    def classify(
        self, images: Images, grid: Grid = Grid(), views: int = 1, tick: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor]:
        """What `log_probabilities` gives of this replica's n images, (n, classes) and (n,), on the CPU. After
        each batch it calls `tick`."""
        train, parts = self.config.train, []
        size = max(1, train.batch // grid.replicas)
        batches = EvaluationBatches(images, self.prepare, size, grid, views)
        for log_p, labels in log_probabilities(self.model, batches, train.precision):
            parts.append((log_p.cpu(), labels.cpu()))
            tick()
        return tuple(map(torch.cat, zip(*parts)))


class Saved(NamedTuple):
    """A trained network on the disk."""

    config: Config
    checkpoint: Path
    learned: Learned

    def load(self, device: torch.device) -> Trained:
        """All its towers on one device. Raises: ValueError if the checkpoint is unreadable or of another
        network."""
        model = ready(load_network(self.config, self.checkpoint), self.config.train, device)
        return Trained(self.config, model.eval(), Preparation(self.learned, self.config, device))


def find_saved(place: Path, config: str | None = None, overrides: Sequence[str] = ()) -> Saved:
    """Of a run's directory the newest checkpoint, or that of its own directory; the config is the run's
    unless another is given. Raises: ValueError if there is none, or if it is unreadable."""
    found = newest_checkpoint(place)
    learned = read_learned(read_state(found).images, found)
    settings = read_config(config or config_of(found), overrides).of_classes(len(learned.task.names))
    return Saved(settings, found, learned)


def check_alike(networks: Sequence[Saved], views: int) -> None:
    """Raises: ValueError if networks do not tell the same classes apart in images of the same shape over as
    many towers, or if ten views cannot be cropped from them."""
    first = networks[0]
    for network in networks:
        path, (others, theirs) = network.checkpoint, (_likeness(of) for of in (network, first))
        differ = [f"{key} {others[key]} is not {theirs[key]}" for key in others if others[key] != theirs[key]]
        if differ:
            raise ValueError(f"{path}: cannot be averaged with {first.checkpoint}: {'; '.join(differ)}")
        if views > 1 and network.config.data.crop is None:
            whole = f"--views {views}: {path} reads whole images (data.crop null)"
            raise ValueError(f"{whole}, so there are no corners to crop: leave --views out")


def _likeness(network):
    task = network.learned.task
    return {"model.towers": network.config.model.towers, "images": task.shape, "classes": task.names}


def average(
    networks: Sequence[Saved], test: Images, ranks: Ranks, views: int, tick: Callable[[], None]
) -> Iterator[tuple[dict, dict]]:
    """Evaluate one network after the other; only one is in memory at a time, and the sum of the probabilities
    of this replica's images, float64 on the CPU.

    Args:
        test: images to classify, with the numbers of the networks' classes.
        tick: called after each batch: faults/watch.py.

    Yields: the figures of `mean_errors` of each network alone, and of the mean of all so far; the same on
        every rank.
    """
    total = 0
    for number, (config, checkpoint, learned) in enumerate(networks, 1):
        model = build_model(config, ranks)
        restore(read_towers(checkpoint, config.model, ranks.grid.held), model)
        trained = Trained(config, model, Preparation(learned, config, ranks.device, ranks.grid.local_world))
        log_p, labels = trained.classify(test, ranks.grid, views, tick)
        del model, trained
        total = total + log_p.exp()
        sums = [errors(log_p, labels), errors((total / number).log(), labels)]
        yield tuple(mean_errors(ranks.sum_over_replicas(sum_.to(ranks.device)).tolist()) for sum_ in sums)
