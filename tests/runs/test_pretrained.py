"""If these fail, a run with --from starts from other weights than it says."""

import json

import pytest
import torch
from conftest import metrics, train

import alexnet2gpu

QUICK = ["--set", "data.name=synthetic", "--set", "train.batch=16", "--set", "train.max_steps=2"]
FREEZE = ["--set", "optim.schedule=[{epoch: 1, weights: 0, biases: 0}]"]  # what it starts from stays
OTHER = ["--set", "model.stages.2.fc6.out=64"]  # of another size; and fc7 reads it


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of ten classes, on one device."""
    run = tmp_path_factory.mktemp("from") / "run"
    train(*QUICK, "--out", run)
    return run


def weights(run):
    return alexnet2gpu.load(run).state_dict()


def layers_that_are_equal(one, other):
    same = [torch.equal(tensor, other[name]) for name, tensor in one.items() if name in other]
    by_layer = {}
    for name, equal in zip(one, same):
        by_layer.setdefault(name.split(".")[2], []).append(equal)
    return [layer for layer, of in by_layer.items() if all(of)]


@pytest.mark.parametrize("kind", ["run", "pt", "safetensors"])
def test_layers_that_fit_are_taken_and_the_others_are_drawn(kind, source, tmp_path, capsys):
    place = source
    if kind == "pt":
        place = tmp_path / "weights.pt"
        torch.save({"state_dict": weights(source)}, place)
    if kind == "safetensors":
        save_file = pytest.importorskip("safetensors.torch").save_file
        place = tmp_path / "weights.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in weights(source).items()}, place)
    train(*QUICK, *FREEZE, *OTHER, "--from", place, "--out", tmp_path / "run")
    said = capsys.readouterr().out
    assert f"weights from {place}: conv1, conv2, conv3, conv4, conv5, fc8; " in said
    assert "drawn anew: fc6 (of another size), fc7 (of another size)" in said
    found = weights(tmp_path / "run")
    assert layers_that_are_equal(found, weights(source)) == [
        "conv1",
        "conv2",
        "conv3",
        "conv4",
        "conv5",
        "fc8",
    ]
    drawn = alexnet2gpu.load(tmp_path / "run" / "config.yaml").state_dict()
    assert layers_that_are_equal(found, drawn) == ["fc6", "fc7"]


def on_ranks_of_a_split(source, out):
    train("--split-model", *QUICK, "--from", source, "--out", out)


def test_a_split_starts_from_the_same_as_one_device(on_ranks, source, tmp_path):
    on_ranks(on_ranks_of_a_split, 2, source, tmp_path / "split")
    train(*QUICK, "--from", source, "--out", tmp_path / "single")
    assert metrics(tmp_path / "split", "loss") == pytest.approx(
        metrics(tmp_path / "single", "loss"), rel=1e-5
    )


def test_a_classifier_of_other_classes_is_drawn_anew(source, tmp_path, capsys):
    """Though it has the same size."""
    train(
        *QUICK,
        *FREEZE,
        "--set",
        "model.towers=2",
        "--set",
        "data.classes=9",
        "--from",
        source,
        "--out",
        tmp_path / "a",
    )
    assert "drawn anew: fc8 (its classes are others)" in capsys.readouterr().out


def test_a_run_that_was_ended_before_its_first_checkpoint_starts_from_them_again(source, tmp_path, capsys):
    train(*QUICK, *FREEZE, "--from", source, "--out", tmp_path / "a")
    for file in (tmp_path / "a").glob("checkpoints/*/*"):
        file.unlink()
    for place in sorted((tmp_path / "a" / "checkpoints").iterdir()):
        place.unlink() if place.is_symlink() else place.rmdir()
    (tmp_path / "a" / "run.json").unlink()
    train("--out", tmp_path / "a", "--resume")
    assert "no checkpoint yet: from the beginning\nweights from " in capsys.readouterr().out
    assert len(layers_that_are_equal(weights(tmp_path / "a"), weights(source))) == 8


def write_other(file):
    torch.save({"features.0.weight": torch.zeros(3)}, file)


def test_the_prefix_of_ddp_is_no_part_of_a_name(source, tmp_path, capsys):
    torch.save({f"module.{name}": tensor for name, tensor in weights(source).items()}, tmp_path / "x.pt")
    train(*QUICK, "--from", tmp_path / "x.pt", "--out", tmp_path / "run")
    assert "conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8\n" in capsys.readouterr().out


def write_whole_numbers(file):
    torch.save({"towers.0.conv1.weight": torch.zeros(8, 1, 5, 5, dtype=torch.int64)}, file)


def write_sparse(file):
    torch.save({"towers.0.fc8.weight": torch.zeros(5, 512).to_sparse()}, file)


MISTAKES = {
    "whole numbers": (write_whole_numbers, "x.pt: cannot be read: has no tensors of floating point"),
    "sparse": (write_sparse, "x.pt: cannot be read: has no tensors of floating point"),
    "a list": (lambda place: torch.save([1], place), "x.pt: cannot be read: is no state dict"),
    "nothing there": (lambda place: None, "x.pt: cannot be read: "),
    "no weights": (lambda place: place.write_text("{}"), "x.pt: cannot be read: "),
    "code": (lambda place: torch.save({"a": json.loads}, place), "x.pt: cannot be read: "),
    "another network": (
        write_other,
        "no layer fits: its tensors are features.0.weight, ...; here they are towers.0.",
    ),
    "an empty folder": (lambda place: place.mkdir(), "x.pt: there is no checkpoint in it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(mistake, tmp_path, capsys):
    make, complaint = MISTAKES[mistake]
    make(tmp_path / "x.pt")
    with pytest.raises(SystemExit) as exit_:
        train(*QUICK, "--from", tmp_path / "x.pt", "--out", tmp_path / "run")
    printed = capsys.readouterr().err
    assert exit_.value.code == 2 and complaint in printed and printed.count("\n") == 1


def test_a_run_that_is_resumed_has_weights(source, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train("--out", source, "--resume", "--from", source)
    assert "--from is for new runs: leave it or --resume out" in capsys.readouterr().err
