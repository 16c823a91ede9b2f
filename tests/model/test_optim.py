"""If these fail, the update is not the one of 2012."""

import pytest
import torch
from conftest import train
from torch._subclasses.fake_tensor import FakeTensorMode

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model import update
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012, rate_of, set_rates

SCHEDULE = load_config("configs/alexnet.yaml").optim.schedule


def parameters():
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.nn.Parameter(torch.randn(5, dtype=torch.float64, generator=draw))
        for name in ("towers.0.conv1.weight", "towers.0.conv1.bias", "towers.1.fc6.weight")
    }


def steps(optimizer, named, rates):
    """One step per rate, with gradient = 3 w + step; all states of the weight on the way."""
    seen = []
    for number, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter in named.values():
            parameter.grad = 3 * parameter.detach() + number
        optimizer.step()
        seen.append({name: parameter.detach().clone() for name, parameter in named.items()})
    return seen


RATES = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]


@pytest.mark.parametrize("momentum, weight_decay", [(0.9, 0.0005), (0.7, 0.01), (0, 0.01)])
def test_the_rule_number_by_number(momentum, weight_decay):
    """v <- 0.9 v - 0.0005 e w - e g; w <- w + v: in plain Python, over a drop of the rate, no
    decay on the bias."""
    named = parameters()
    expected = {name: [(w, 0.0) for w in parameter.tolist()] for name, parameter in named.items()}
    seen = steps(SGD2012(named.items(), momentum, weight_decay), named, RATES)
    for number, rate in enumerate(RATES):
        for name, values in expected.items():
            decay = weight_decay if name.endswith("weight") else 0
            for i, (w, v) in enumerate(values):
                v = momentum * v - decay * rate * w - rate * (3 * w + number)
                values[i] = w + v, v
            assert seen[number][name].tolist() == pytest.approx([w for w, _ in values], rel=1e-13)


def test_weights_of_float32_on_a_gpu_are_updated_by_our_kernel(monkeypatch):
    """Each with its own rule; those of float64 by torch's."""
    asked = []
    monkeypatch.setattr(update, "has_triton", lambda: True)
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *args, **numbers: asked.append("torch's"))
    kernel = pytest.importorskip("alexnet2gpu.model.update_kernel")
    monkeypatch.setattr(kernel, "update", lambda w, g, v, halted, *rule: asked.append(rule))
    for dtype in (torch.float32, torch.float64):
        with FakeTensorMode():
            w = torch.empty(3, device="cuda", dtype=dtype)
            update.update([(w, w, w)] * 2, w[0], 0.01, 0.9, 0.0005)
    assert asked == [(0.01, 0.9, 0.0005)] * 2 + ["torch's"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_may_lie_otherwise_than_weights(layout):
    """In channels-last weights every gradient goes to its own weight."""
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    gradient = torch.arange(48.0).view(4, 3, 2, 2)
    w = torch.nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    optimizer = SGD2012([("towers.0.conv1.bias", w)], 0.9, 0)
    optimizer.param_groups[0]["lr"] = 0.5
    w.grad = gradient.contiguous(memory_format=layout)
    optimizer.step()
    torch.testing.assert_close(w.detach(), weight - 0.5 * gradient)


def test_torchs_sgd_differs_only_after_the_drop():
    named, others = parameters(), parameters()
    torchs = torch.optim.SGD(
        [{"params": [p], "weight_decay": 0.0005 * name.endswith("weight")} for name, p in others.items()],
        lr=0.1,
        momentum=0.9,
    )
    ours, theirs = (steps(SGD2012(named.items(), 0.9, 0.0005), named, RATES), steps(torchs, others, RATES))
    off = [max((a[name] - b[name]).abs().max().item() for name in named) for a, b in zip(ours, theirs)]
    assert max(off[:3]) < 1e-12 and min(off[3:]) > 1e-3


def test_a_rate_of_0_freezes_weight_and_velocity():
    named = parameters()
    optimizer = SGD2012(named.items(), 0.9, 0.0005)
    before = steps(optimizer, named, [0.1])[0]
    velocity = {p: optimizer.state[p]["velocity"].clone() for p in named.values()}
    after = steps(optimizer, named, [0])[0]
    assert all(torch.equal(before[name], after[name]) for name in named)
    assert all(torch.equal(optimizer.state[p]["velocity"], old) for p, old in velocity.items())


@pytest.mark.parametrize(
    "epoch, conv1, others, biases",
    [
        (1, 0.01, 0.01, 0.02),
        (24, 0.01, 0.01, 0.02),
        (25, 0.001, 0.001, 0.002),
        (50, 0.001, 0.001, 0.002),
        (51, 1e-4, 1e-4, 0.002),
        (66, 1e-4, 1e-4, 0.002),
        (67, 1e-5, 1e-4, 0.002),
        (71, 1e-5, 1e-4, 0.002),
        (72, 0, 1e-4, 0.002),
        (78, 0, 1e-4, 0.002),
        (79, 0, 1e-5, 0.002),
        (90, 0, 1e-5, 0.002),
    ],
)
def test_the_schedule_of_2012(epoch, conv1, others, biases):
    """The frozen conv1 stays so when the rate of all layers changes at epoch 79."""
    assert rate_of(SCHEDULE, epoch, "conv1", "weights") == conv1
    assert rate_of(SCHEDULE, epoch, "fc6", "weights") == rate_of(SCHEDULE, epoch, "", "weights") == others
    assert rate_of(SCHEDULE, epoch, "fc6", "biases") == biases
    assert rate_of(SCHEDULE, epoch, "conv1", "biases") == (0 if epoch >= 72 else biases)


def test_every_parameter_gets_its_rate():
    named = parameters()
    optimizer = SGD2012(named.items(), 0.9, 0.0005)
    set_rates(optimizer, SCHEDULE, 67)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (1e-5, 0.0005),
        (0.002, 0),
        (1e-4, 0.0005),
    ]
    set_rates(optimizer, SCHEDULE, 72)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0, 1e-4]


def test_training_follows_the_schedule(tmp_path):
    """All is frozen from epoch 2 on, conv2 already in epoch 1."""
    schedule = (
        "[{epoch: 1, weights: 0.01, biases: 0.01, layers: {conv2: {weights: 0, biases: 0}}},"
        " {epoch: 2, weights: 0, biases: 0}]"
    )
    settings = [
        "data.name=synthetic",
        "train.batch=256",
        "train.epochs=3",
        "train.keep=3",
        f"optim.schedule={schedule}",
    ]
    train("--out", tmp_path, *(part for setting in settings for part in ("--set", setting)))
    start = AlexNet(load_config(tmp_path / "config.yaml").model, seed=0).state_dict()
    first, second, third = (
        torch.load(tmp_path / f"checkpoints/step-{step:08d}/tower-0.pt")["weights"] for step in (2, 4, 6)
    )
    changed = {name for name in first if not torch.equal(first[name], start[name])}
    assert changed == {name for name in first if "conv2" not in name}
    for later in (second, third):
        assert all(torch.equal(first[name], later[name]) for name in first)
