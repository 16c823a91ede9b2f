"""If these fail, a resumed run is not the one that was interrupted."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import metrics, train

import alexnet2gpu
from alexnet2gpu import checkpoint
from alexnet2gpu.config import load_config
from alexnet2gpu.data.sources import load_images

SETTINGS = [
    "data.name=synthetic",
    "train.batch=16",
    "train.precision=float64",
    "train.log_every=1",
    "model.stages.2.drop6.p=0",
    "model.stages.3.drop7.p=0",
]
OPTIONS = [part for setting in SETTINGS for part in ("--set", setting)]


def upto(steps):
    return [*OPTIONS, "--set", f"train.max_steps={steps}"]


def weights(folder):
    return alexnet2gpu.load(folder / "config.yaml", folder).state_dict()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Nine steps on one device: three modes of three steps each must come to the same."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    train(*upto(9), "--out", folder)
    return folder


@pytest.mark.parametrize(
    "order", ["single split grid", "split ddp single", "ddp grid split", "grid single ddp"]
)
def test_any_mode_resumes_any_other(on_ranks, unbroken, tmp_path, order):
    """Losses and weights of the unbroken run, mid-epoch and at other world sizes, up to float64
    rounding."""
    out = tmp_path / "run"
    for third, mode in enumerate(order.split()):
        arguments = [*upto(3 * third + 3), "--out", out, *["--resume"] * (third > 0)]
        if mode == "single":
            train(*arguments)
        else:
            flags = {
                "split": ["--split-model"],
                "ddp": ["--ddp"],
                "grid": ["--split-model", "--ddp"],
            }[mode]
            on_ranks(train, 4 if mode == "grid" else 2, *flags, *arguments)
    expected, found = metrics(unbroken, "loss"), metrics(out, "loss")
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-11)
    for name, weight in weights(unbroken).items():
        torch.testing.assert_close(
            weights(out)[name], weight, rtol=1e-6, atol=1e-9
        )  # float32, when loaded


def test_the_same_mode_resumes_bit_for_bit_with_dropout(tmp_path):
    options = [
        "--set",
        "data.name=synthetic",
        "--set",
        "train.batch=16",
        "--set",
        "train.log_every=1",
    ]
    train(*options, "--set", "train.max_steps=6", "--out", tmp_path / "unbroken")
    train(*options, "--set", "train.max_steps=3", "--out", tmp_path / "broken")
    train("--set", "train.max_steps=6", "--out", tmp_path / "broken", "--resume")
    assert metrics(tmp_path / "broken", "loss") == metrics(tmp_path / "unbroken", "loss")
    assert all(
        torch.equal(weights(tmp_path / "broken")[name], weight)
        for name, weight in weights(tmp_path / "unbroken").items()
    )


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path):
    """A run that died after logging steps that no checkpoint has logs them once, not twice."""
    train(*upto(3), "--out", tmp_path / "run")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "loss": 99.0}\n{"step": 5, "lo')
    train(*upto(5), "--out", tmp_path / "run", "--resume")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in lines if '"loss"' in line]
    assert [line["step"] for line in losses] == [1, 2, 3, 4, 5]
    assert losses[3]["loss"] != 99


def test_a_checkpoint_is_the_union_of_its_towers(unbroken):
    """One file per tower with weights and velocities of the names that every mode uses; nothing
    but tensors."""
    newest = checkpoint.newest(unbroken)
    assert sorted(file.name for file in newest.iterdir()) == [
        "state.json",
        "tower-0.pt",
        "tower-1.pt",
    ]
    for index in (0, 1):
        content = torch.load(newest / f"tower-{index}.pt", weights_only=True)
        assert set(content) == {"weights", "velocity"} and set(content["weights"]) == set(
            content["velocity"]
        )
        assert all(name.startswith(f"towers.{index}.") for name in content["weights"])


def test_only_whole_checkpoints_count_and_the_newest_are_kept(unbroken, tmp_path):
    folder = shutil.copytree(unbroken, tmp_path / "run")
    (folder / "checkpoints" / ".step-00000099.partial").mkdir()
    (folder / "checkpoints" / "step-00000098").mkdir()  # no state.json
    assert checkpoint.newest(folder).name == "step-00000009"
    for last in (10, 11, 12):
        train(*upto(last), "--out", folder, "--resume")
    assert [step.parent.name for step in sorted(folder.glob("checkpoints/*/state.json"))] == [
        "step-00000011",
        "step-00000012",
    ]


def damaged(folder, how):
    newest = checkpoint.newest(folder)
    if how == "missing tower":
        (newest / "tower-1.pt").unlink()
    elif how == "cut":
        (newest / "tower-1.pt").write_bytes((newest / "tower-1.pt").read_bytes()[:5000])
    elif how == "not a checkpoint":
        torch.save([1, 2], newest / "tower-1.pt")
    elif how == "wrong tower":
        shutil.copy(newest / "tower-0.pt", newest / "tower-1.pt")
    elif how == "code":
        torch.save({"weights": json.loads, "velocity": {}}, newest / "tower-1.pt")
    elif how == "state":
        (newest / "state.json").write_text("{")


@pytest.mark.parametrize(
    "how", ["missing tower", "cut", "not a checkpoint", "wrong tower", "code", "state"]
)
def test_a_damaged_checkpoint_is_named_before_anything_starts(unbroken, tmp_path, how, capsys):
    folder = shutil.copytree(unbroken, tmp_path / "run")
    damaged(folder, how)
    with pytest.raises(SystemExit) as exit_:
        train(*upto(12), "--out", folder, "--resume")
    message = capsys.readouterr().err
    assert (
        exit_.value.code == 2 and message.count("\n") == 1 and "unreadable checkpoint" in message
    )


@pytest.mark.parametrize(
    "change", ["train.batch=32", "train.seed=1", "model.stages.0.conv1.init=0.5"]
)
def test_a_run_goes_on_only_as_what_it_was(unbroken, change):
    config = load_config(unbroken / "config.yaml", [change])
    images, _ = load_images(config.data, config.model)
    with pytest.raises(ValueError, match="was made with another"):
        checkpoint.resume(unbroken, checkpoint.identity(config, images), config.model, [0, 1])


def test_a_run_goes_on_only_with_its_labels(unbroken):
    """As many images, but a class was renamed, say, and all numbers have changed."""
    config = load_config(unbroken / "config.yaml")
    images, _ = load_images(config.data, config.model)
    other = replace(images, labels=images.labels[::-1].copy())
    with pytest.raises(ValueError, match="was made with another training labels"):
        checkpoint.resume(unbroken, checkpoint.identity(config, other), config.model, [0, 1])


def test_load_reads_a_checkpoint_or_draws(unbroken):
    network = alexnet2gpu.load(unbroken / "config.yaml")
    assert not torch.equal(
        network.state_dict()["towers.0.conv1.weight"], weights(unbroken)["towers.0.conv1.weight"]
    )
    with pytest.raises(ValueError, match="no checkpoint"):
        alexnet2gpu.load("configs/quick.yaml", "configs")
