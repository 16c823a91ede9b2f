"""If these fail, the memory that the project reports is not the memory that a step holds."""

import json

import torch
from conftest import train
from torch import nn
from torch.nn import functional as F

from alexnet2gpu.config import load_config
from alexnet2gpu.memory import report
from alexnet2gpu.memory.measure import StepMemory
from alexnet2gpu.network import totals, traffic
from alexnet2gpu.optim import SGD2012

STEPS = ["--set", "train.max_steps=2", "--set", "data.name=synthetic"]


def ranks_of(folder):
    return json.loads((folder / "memory.json").read_text())["ranks"]


def test_split_holds_half_and_ddp_all(on_ranks, tmp_path):
    """Weights, gradients and momentum: 4 bytes a parameter, to the byte."""
    train(*STEPS, "--out", tmp_path / "single")
    on_ranks(train, 2, "--split-model", *STEPS, "--out", tmp_path / "split")
    on_ranks(train, 2, "--ddp", *STEPS, "--out", tmp_path / "ddp")
    on_ranks(train, 4, "--split-model", "--ddp", *STEPS, "--out", tmp_path / "grid")
    whole = 4 * totals(load_config("configs/quick.yaml").model)[0]
    for mode, ranks, each in [
        ("single", 1, whole),
        ("split", 2, whole // 2),
        ("ddp", 2, whole),
        ("grid", 4, whole // 2),
    ]:
        measured = [rank["measured"] for rank in ranks_of(tmp_path / mode)]
        assert len(measured) == ranks
        for category in ("weights", "gradients", "momentum"):
            assert [rank[category] for rank in measured] == [each] * ranks, (mode, category)


def test_a_run_counts_what_it_sends(on_ranks, tmp_path):
    on_ranks(train, 2, "--split-model", *STEPS, "--out", tmp_path / "split")
    expected = [way._asdict() for way in traffic(load_config("configs/quick.yaml").model)]
    assert [rank["sent_per_image"] for rank in ranks_of(tmp_path / "split")] == [expected] * 2


def test_saved_activations_are_counted_alike_whatever_the_share(on_ranks, tmp_path):
    """A replica of two keeps half of what one device keeps; only the number of images that the
    loss divides by, four bytes, is there once on each. (Storages freed in the step must not be
    mistaken for new ones at the same address.)"""
    steps = [*STEPS, "--set", "train.max_steps=3"]
    train(*steps, "--out", tmp_path / "single")
    on_ranks(train, 2, "--ddp", *steps, "--out", tmp_path / "ddp")
    (single,), replicas = ranks_of(tmp_path / "single"), ranks_of(tmp_path / "ddp")
    for replica in replicas:
        half = replica["measured"]["saved_activations"] - 4
        assert single["measured"]["saved_activations"] == 2 * half + 4


def chain():
    """(B, 10) -> linear 20 -> relu -> linear 5, whose every tensor can be counted by hand."""
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    optimizer = SGD2012([(f"towers.0.{name}", p) for name, p in model.named_parameters()], 0.9, 0)
    return model, optimizer, torch.randn(64, 10), torch.randint(5, (64,))


def step(model, optimizer, x, labels):
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(model(x), labels).backward()
    optimizer.step()


def test_a_chain_counted_by_hand():
    model, optimizer, x, labels = chain()
    step(
        model, optimizer, x, labels
    )  # so that gradients of an earlier step are there and must be seen to go
    with StepMemory(model, optimizer, (x, labels)) as memory:
        step(model, optimizer, x, labels)
    parameters = 10 * 20 + 20 + 20 * 5 + 5
    assert (
        memory.bytes["weights"]
        == memory.bytes["gradients"]
        == memory.bytes["momentum"]
        == 4 * parameters
    )
    assert memory.bytes["batch"] == 64 * 10 * 4 + 64 * 8
    # kept for backward: the output of ReLU (for its own backward and as input of the second
    # linear), log-softmax's output, and the number of images that the loss divides by
    hidden, logits = 64 * 20 * 4, 64 * 5 * 4
    assert memory.bytes["saved_activations"] == hidden + logits + 4
    # at the most, early in backward: weights, momentum, batch, what is saved, a gradient or two of
    # the size of the logits and of the hidden layer, and gradients of parameters as they come
    least = 2 * 4 * parameters + memory.bytes["batch"] + hidden + logits
    assert least < memory.bytes["peak"] < least + 4 * parameters + hidden + 3 * logits


def test_the_ledger_forgets_what_dies():
    """Ten temporaries one after another cost one at a time; ten that live together cost ten."""
    model, optimizer, x, labels = chain()
    size = 2**20
    peaks = []
    for keep in (False, True):
        with StepMemory(model, optimizer, (x, labels)) as memory:
            kept = []
            for _ in range(10):
                temporary = torch.empty(size, dtype=torch.uint8)
                if keep:
                    kept.append(temporary)
                del temporary
        base = sum(memory.bytes[name] for name in ("weights", "momentum", "batch"))
        peaks.append(memory.bytes["peak"] - base)
    assert peaks == [size, 10 * size]


def test_views_and_in_place_results_are_counted_once():
    model, optimizer, x, labels = chain()
    with StepMemory(model, optimizer, (x, labels)) as memory:
        big = torch.zeros(1000, dtype=torch.uint8)
        alive = [big.view(10, 100), big[5:], big.add_(1), big.detach()]
    assert (
        memory.bytes["peak"] - sum(memory.bytes[name] for name in ("weights", "momentum", "batch"))
        == 1000
    )
    assert len(alive) == 4


def test_the_table_shows_all_ranks_side_by_side(on_ranks, tmp_path):
    on_ranks(train, 2, "--split-model", *STEPS, "--out", tmp_path / "split")
    lines = report.table(ranks_of(tmp_path / "split")).strip().splitlines()
    assert lines[0].split() == ["memory,", "MiB", "rank", "0", "rank", "1"]
    rows = {line[:20].strip(): line[20:].split() for line in lines[2:]}
    assert len(rows["weights"]) == 2 and rows["weights"][0] == rows["weights"][1]
    assert {"weights", "gradients", "momentum", "batch", "saved activations", "peak"} <= set(rows)
