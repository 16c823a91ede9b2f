"""If these fail, a network that cannot learn is trained for a week, or a good one is blamed.

The figures are compared with the same network written out operation by operation.
"""

import contextlib
import io

import numpy as np
import pytest
import torch
from conftest import ended
from torch.nn import functional as F

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.epoch import draw_epoch
from alexnet2gpu.data.images import Images
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.runs import diagnose as diagnose_module
from alexnet2gpu.runs.diagnose import FAINT, Health, complaint, diagnose

# conv1 is final after relu1, which comes after a pooling; conv2 has no nonlinearity at all, fc3
# has two, of which the first counts.
STAGES = """[
    {conv1: {type: conv, out: 8, kernel: 3, pad: 1, init: 0.3, bias: -0.3},
     pool1: {type: max_pool, kernel: 2, stride: 2}, relu1: relu,
     conv2: {type: conv, out: 6, kernel: 3, init: 0.2}, flatten: flatten},
    {fc3: {type: linear, out: 20, init: 0.1, bias: -0.2}, tanh3: tanh,
     drop3: {type: dropout, p: 0.5, scaling: "2012"}, relu3: relu},
    {fc4: {type: linear, out: 10, init: 0.1, bias: 0.3}},
]"""
RATES = "{epoch: 1, weights: 0.1, biases: 7, layers: {fc3: {weights: 0.02}}}, {epoch: 2, weights: 9}"
SMALL = [
    "model.input=[3, 8, 8]",
    f"model.stages={STAGES}",
    "data.mean=none",
    "data.flip=false",
    "data.divide=255",
    "train.batch=12",
    "train.precision=float64",
    "train.seed=3",
    f"optim.schedule=[{RATES}]",
]


def dark():
    """Images of which some units never see enough to wake up."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    return Images(pixels, draw.integers(0, 10, 30), 10)


def activations(model, x, mask):
    """Layer -> its activation over all towers, those of the first tower first; and the logits.
    `mask` is for what drop3 gives."""
    towers = list(model.towers.values())

    def both(function):
        return torch.cat([function(tower) for tower in towers], 1)

    def convolve(layer, h):
        return F.conv2d(h, layer.weight, layer.bias, padding=layer.padding)

    pooled = [F.max_pool2d(convolve(tower.conv1, x), 2) for tower in towers]
    conv1 = [pool.clamp(min=0) for pool in pooled]
    conv2 = [convolve(tower.conv2, own) for tower, own in zip(towers, conv1)]
    features = torch.cat([own.flatten(1) for own in conv2], 1)
    fc3 = both(lambda tower: torch.tanh(features @ tower.fc3.weight.T + tower.fc3.bias))
    seen = (fc3 * mask).clamp(min=0)
    logits = both(lambda tower: seen @ tower.fc4.weight.T + tower.fc4.bias)
    return {"conv1": torch.cat(conv1, 1), "conv2": torch.cat(conv2, 1), "fc3": fc3, "fc4": logits}


def masks(model, settings):
    """What drop3 draws in the first step: of each tower's own generator, 10 units a tower."""
    model.seed_dropout(settings.train.seed, 0, 0)
    return torch.cat(
        [
            torch.empty(12, 10, dtype=torch.bool).bernoulli_(0.5, generator=tower.generator)
            for tower in model.towers.values()
        ],
        1,
    )


def test_signal_dead_and_step_are_those_of_the_network_written_out():
    images, settings = dark(), load_config("configs/quick.yaml", SMALL)
    model = AlexNet(settings.model, settings.train.seed).double()
    chosen = draw_epoch(3, 1, images.pixels.shape, 8, False).order[:12]
    x = torch.from_numpy(images.pixels[chosen]).permute(0, 3, 1, 2) / 255.0
    x, labels = x.double(), torch.from_numpy(images.labels[chosen])
    in_testing = activations(model, x, 0.5)
    logits = activations(model, x, masks(model, settings))["fc4"]
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    of_each = [F.cross_entropy(logits, torch.full((12,), label)).item() for label in range(10)]

    found_loss, even, health = diagnose(settings, images, torch.device("cpu"))
    assert found_loss == pytest.approx(loss.item(), rel=1e-6)
    assert even == pytest.approx(np.mean(of_each), rel=1e-6) and abs(even - found_loss) > 1e-3
    assert [row.layer for row in health] == ["conv1", "conv2", "fc3", "fc4"]
    for row in health:
        units = in_testing[row.layer].detach().flatten(1).numpy()  # (12, units)
        signal_ = units.std(0, ddof=1).mean() / np.abs(units).mean()
        layers = [tower.get_submodule(row.layer) for tower in model.towers.values()]
        w, g = (
            torch.cat([tensor.flatten() for tensor in tensors])
            for tensors in ([a.weight for a in layers], [a.weight.grad for a in layers])
        )
        rate = 0.02 if row.layer == "fc3" else 0.1
        expected = signal_, (units == 0).all(0).mean(), rate * (g.norm() / w.norm()).item()
        assert row[1:] == pytest.approx(expected, rel=1e-5), row.layer
    dead = {row.layer: row.dead for row in health}
    assert 0.02 < dead["conv1"] < 0.98 and dead["conv2"] == dead["fc3"] == 0


def test_nothing_is_trained_and_the_next_diagnosis_is_the_same():
    images, settings = dark(), load_config("configs/quick.yaml", SMALL)
    device = torch.device("cpu")
    assert diagnose(settings, images, device) == diagnose(settings, images, device)


def test_the_layer_before_the_classifier_decides():
    def rows(*signals):
        names = ("conv1", "fc7", "fc8")
        return [Health(name, signal_, 0, 0.01) for name, signal_ in zip(names, signals)]

    assert complaint(rows(0.001, FAINT, 0.001)) is None
    assert complaint(rows(1, 0.9 * FAINT, 1)).startswith("hardly anything of an image reaches")
    assert "fc7 differs by 1.20% of its mean" in complaint(rows(1, 0.012, 1))
    assert complaint([Health("fc", 0.001, 0, 0.01)]) is None  # it reads the images themselves


def diagnose_py(*arguments):
    """launch/diagnose.py in this process: exit status, and what it printed on both streams."""
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        status, stderr = ended("diagnose", *arguments)
    return status, stdout.getvalue() + stderr


def weak():
    """quick.yaml with every weight half of what it is, as arguments."""
    stages = load_config("configs/quick.yaml").model.stages
    return [
        part
        for number, stage in enumerate(stages)
        for name, layer in stage.items()
        if hasattr(layer, "init")
        for part in ("--set", f"model.stages.{number}.{name}.init={layer.init / 2}")
    ]


def test_quick_is_worth_training_and_with_small_weights_is_not():
    status, printed = diagnose_py()
    assert status == 0 and "warning" not in printed
    assert printed.splitlines()[-1].startswith("images reach the classifier: fc7 differs by 4.")
    assert "lower them" not in printed
    names = [line.split()[0] for line in printed.splitlines()[1:9]]
    assert names == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    status, printed = diagnose_py(*weak())
    assert status == 1
    warning = printed.splitlines()[-1]
    assert warning.startswith("warning: hardly anything of an image reaches the classifier: fc7")


def test_rates_that_would_end_in_no_number_are_told_of():
    """Ten times those of quick.yaml: its loss is no number in the second epoch."""
    status, printed = diagnose_py("--set", "optim.schedule.0.weights=0.1")
    assert status == 0 and printed.splitlines()[-1].startswith(
        "high rates: they may end in a loss that is no"
    )


@pytest.mark.parametrize("seed", range(1, 3))
def test_other_seeds_of_quick_are_worth_training_too(seed):
    assert diagnose_py("--set", f"train.seed={seed}")[0] == 0


def test_one_bad_seed_of_several_is_told_of(monkeypatch):
    """Here the second; the seeds are those from train.seed on."""
    verdicts = iter([None, "the second is faint", None])
    monkeypatch.setattr(diagnose_module, "complaint", lambda health: next(verdicts))
    arguments = [part for override in SMALL for part in ("--set", override)]
    synthetic = "--set", "data.name=synthetic"
    status, printed = diagnose_py(*arguments, *synthetic, "--seeds", 3)
    seeds = [line.split()[-1] for line in printed.splitlines() if line.startswith("loss")]
    assert status == 1 and seeds == ["3", "4", "5"]
    assert printed.splitlines()[-1] == "warning: the second is faint"


@pytest.mark.parametrize(
    "arguments, complaint_",
    [
        (["--seeds", "0"], "--seeds 0: "),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: there is no such file"),
        (["--set", "train.batch=7000"], "train.batch 7000 is more than the 6000 training images"),
        (["--data", "nowhere", "--set", "data.name=folder"], "there is no such directory"),
        (["--set", "data.name=folder"], "say where the photographs are with --data DIR"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, complaint_):
    status, printed = diagnose_py(*arguments)
    assert status == 2 and printed.startswith("error: ") and complaint_ in printed
    assert printed.count("\n") == 1
