"""If these fail, published errors are not those of the networks: other views, averages or images.

Networks are trained for a few steps on a few pictures, and evaluated once more here: view by view
and image by image, all towers on one device.
"""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ended, train

import alexnet2gpu
from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import EvaluationBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.runs.evaluate import collapse, errors, mean_errors

HEIGHT, WIDTH, CROP = 34, 28, 24  # so the centre lies at 5, 2 and the last corner at 10, 4
STAGES = """[
    {conv1: {type: conv, out: 8, kernel: 5, init: 0.04}, pool1: {type: max_pool, kernel: 3,
     stride: 2}, relu1: relu, flatten: flatten},
    {fc6: {type: linear, out: 16, init: 0.01}, relu6: relu,
     drop6: {type: dropout, p: 0.5, scaling: "2012"}},
    {fc8: {type: linear, out: 10, init: 0.1}},
]"""
SMALL = [
    "data.name=arrays",
    f"data.crop={CROP}",
    f"model.input=[1,{CROP},{CROP}]",
    "train.batch=8",
    "train.max_steps=6",
    "train.precision=float64",
    f"model.stages={STAGES}",
    "optim.schedule=[{epoch: 1, weights: 1e-4, biases: 1e-4}]",
]
SET = [part for override in SMALL for part in ("--set", override)]


def pictures(count, seed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 10, count)
    pixels = draw.integers(0, 150, (count, HEIGHT, WIDTH, 1))
    pixels[np.arange(count), 3 * labels] += 100  # a bright line, its height the class
    return pixels.astype(np.uint8), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 training and 11 test images in data/, and two trained networks, a/ and b/."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "data").mkdir()
    for seed, (part, count) in enumerate({"train": 40, "test": 11}.items()):
        for name, array in zip(("images", "labels"), pictures(count, seed)):
            np.save(folder / "data" / f"{part}_{name}.npy", array)
    for seed, name in enumerate("ab"):
        out = ["--data", folder / "data", "--out", folder / name]
        train(*SET, "--set", f"train.seed={seed}", *out)
    return folder


def view_by_view(picture, mean, views):
    """The centre; or the corners and the centre, and the mirror images of these five."""
    top, left = (HEIGHT - CROP) // 2, (WIDTH - CROP) // 2
    places = [(top, left)]
    if views == 10:
        places += [(0, 0), (0, 2 * left), (2 * top, 0), (2 * top, 2 * left)]
    centre = mean[top : top + CROP, left : left + CROP]
    found = [picture[y : y + CROP, x : x + CROP].astype(float) for y, x in places]
    if views == 10:
        found += [view[:, ::-1] for view in found]
    return np.stack([(view - centre).transpose(2, 0, 1) for view in found])


def probabilities(folder, name, views):
    """Of the test images (11, 10) in plain numpy, from a network's logits, one view at a time."""
    network = alexnet2gpu.load(folder / name / "config.yaml", folder / name).double().eval()
    mean = pictures(40, 0)[0].mean(0).astype(np.float32)
    found = []
    for picture in pictures(11, 1)[0]:
        of_views = []
        for view in view_by_view(picture, mean, views):
            with torch.no_grad():
                logits = network(torch.from_numpy(view[None].copy())).numpy()[0]
            of_views.append(np.exp(logits) / np.exp(logits).sum())
        found.append(np.mean(of_views, 0))
    return np.stack(found)


def figures(p):
    """What a table would say of probabilities (11, 10)."""
    labels = pictures(11, 1)[1]
    ranking = np.argsort(-p, axis=1)
    return {
        "test_loss": -np.log(p[np.arange(11), labels]).mean(),
        "top1_error": (ranking[:, 0] != labels).mean(),
        "top5_error": 1 - (ranking[:, :5] == labels[:, None]).any(1).mean(),
    }


evaluate = functools.partial(ended, "evaluate")


def check(out, folder, names, views):
    """What was written to `out` is what plain code makes of the networks."""
    document = json.loads(out.read_text())
    assert document["views"] == views and document["images"] == 11
    assert len(document["networks"]) == len(names)
    p = [probabilities(folder, name, views) for name in names]
    for number, found in enumerate(document["networks"]):
        assert str(folder / names[number]) in found["checkpoint"]
        assert found["alone"] == pytest.approx(figures(p[number]), rel=1e-6)
        assert found["averaged"] == pytest.approx(figures(np.mean(p[: number + 1], 0)), rel=1e-6)


@pytest.mark.parametrize("views", [1, 10])
def test_two_networks_and_their_average_are_those_of_plain_code(views, folder, tmp_path, capsys, monkeypatch):
    """The watch is told after each batch, or it would end a long evaluation as stuck."""
    ticks = []
    monkeypatch.setattr("alexnet2gpu.faults.watch.Watch.tick", lambda self: ticks.append(1))
    arguments = [folder / "a", folder / "b" / "checkpoints", "--views", views]
    assert evaluate(*arguments, "--out", tmp_path / "out.json") == (0, "")
    check(tmp_path / "out.json", folder, "ab", views)
    batch = load_config(folder / "a" / "config.yaml").train.batch
    assert len(ticks) == 2 * -(-11 // max(1, batch // views))
    lines = capsys.readouterr().out.splitlines()
    averaged = figures((probabilities(folder, "a", views) + probabilities(folder, "b", views)) / 2)
    assert len(lines) == 3 and lines[2].startswith("average of 2 networks: top-1 error ")
    assert lines[2].endswith(f"loss {averaged['test_loss']:.4f}")


def test_what_is_compared_differs(folder):
    """Else the tests here could not tell one view from ten, or a network from another."""
    losses = {figures(probabilities(folder, name, views))["test_loss"] for name in "ab" for views in (1, 10)}
    assert len({round(loss, 2) for loss in losses}) == 4


@pytest.mark.parametrize("mode", ["--split-model", "--ddp", "--hybrid"])
def test_two_ranks_give_the_same_figures(mode, on_ranks, folder, tmp_path):
    """The 11 images are no even number: one replica has 6 of them, the other 5."""
    out = tmp_path / "out.json"
    arguments = folder / "a", folder / "b", "--views", 10, "--out", out, mode
    assert on_ranks(evaluate, 2, *arguments) == [(0, "")] * 2
    check(out, folder, "ab", 10)


def test_training_reports_the_figures_of_one_view(folder):
    """At the end of its run, what launch/evaluate.py finds in its checkpoint."""
    lines = (folder / "a" / "metrics.jsonl").read_text().splitlines()
    last = [json.loads(line) for line in lines if "test_loss" in line][-1]
    expected = figures(probabilities(folder, "a", 1))
    assert {key: last[key] for key in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [1, 10, 25, 1000])
@pytest.mark.parametrize("views", [1, 10])
def test_views_are_crops_to_the_bit_next_to_each_other(size, views):
    """Of this replica's images, however many are taken at a time; in any order of the views."""
    pixels, labels = pictures(11, 1)
    images = Images(pixels, labels, 10)
    settings = load_config("configs/quick.yaml", [*SMALL, "data.mean=none"])
    prepare = Preparation(images, settings, torch.device("cpu"))
    seen = list(EvaluationBatches(images, prepare, size, Grid(1, 2), views))
    assert all(len(x) <= max(size, views) for x, _ in seen)
    x = torch.cat([x for x, _ in seen]).unflatten(0, (-1, views)).numpy()
    assert torch.cat([numbers for _, numbers in seen]).tolist() == labels[1::2].tolist()
    for ours, picture in zip(x, pixels[1::2], strict=True):
        expected = view_by_view(picture, np.zeros((HEIGHT, WIDTH, 1)), views)
        assert sorted(view.tobytes() for view in ours) == sorted(
            view.astype(np.float64).tobytes() for view in expected
        )


def test_ten_views_of_images_without_a_border_are_an_error():
    pixels, labels = pictures(11, 1)
    images = Images(pixels[:, :CROP, :CROP].copy(), labels, 10)
    prepare = Preparation(images, load_config("configs/quick.yaml", SMALL), torch.device("cpu"))
    with pytest.raises(ValueError, match="--views 10: images are no larger than what"):
        EvaluationBatches(images, prepare, 8, views=10)


@pytest.fixture(scope="module")
def spoiled(folder):
    """Beside a/ and b/: runs without a config, without a checkpoint, and with others."""
    for name in ("no_config", "no_checkpoint", "others", "broken"):
        shutil.copytree(folder / "a", folder / name)
    (folder / "no_config" / "config.yaml").unlink()
    shutil.rmtree(folder / "no_checkpoint" / "checkpoints")
    config = folder / "others" / "config.yaml"
    config.write_text(config.read_text().replace("towers: 2", "towers: 1"))
    assert "towers: 1" in config.read_text()
    for file in folder.glob("broken/checkpoints/*/tower-1.pt"):
        file.write_bytes(file.read_bytes()[:-100])
    return folder


MISTAKES = [
    (["a", "--views", "10", "--set", "data.crop=null"], "reads whole images (data.crop null)"),
    (["a", "others"], "cannot be averaged with"),
    (["a", "others"], "model.towers 1 is not 2"),
    (["no_config"], "config.yaml: say which config with --config FILE"),
    (["no_checkpoint"], "no_checkpoint: there is no checkpoint in it"),
    (["nowhere"], "nowhere: there is no checkpoint in it"),
    (["a", "broken"], "unreadable checkpoint: tower-1.pt: "),
    (["a", "--set", "model.stages.1.fc6.out=64"], "tower-0.pt: unreadable checkpoint: it holds"),
    (["a", "--views", "5"], "argument --views: invalid choice"),
    (["a", "--split-model"], "--split-model on 1 process"),
    (["a", "--hybrid"], "launch/evaluate.py CKPT --hybrid"),
    (["a", "--out", "nowhere/found.json"], "--out nowhere/found.json: should be a file in a"),
    ([], "the following arguments are required: CKPT"),
]


@pytest.mark.parametrize("arguments, complaint", MISTAKES)
def test_a_mistake_is_told_in_one_line(arguments, complaint, spoiled, monkeypatch):
    monkeypatch.chdir(spoiled)
    status, printed = evaluate(*arguments)
    assert status == 2 and printed.startswith("error: ") and complaint in printed
    assert printed.count("\n") == 1


def test_a_mistake_on_two_ranks_is_told_once(on_ranks, spoiled):
    answers = on_ranks(evaluate, 2, spoiled / "a", spoiled / "broken", "--split-model")
    assert [status for status, _ in answers] == [2, 2]
    printed = "".join(printed for _, printed in answers)
    assert printed.startswith("error: ") and printed.count("\n") == 1


def test_a_config_may_be_named(spoiled, tmp_path):
    config, out = spoiled / "a" / "config.yaml", tmp_path / "out.json"
    assert evaluate(spoiled / "no_config", "--config", config, "--out", out) == (0, "")
    found = json.loads(out.read_text())["networks"][0]["alone"]
    assert found == pytest.approx(figures(probabilities(spoiled, "a", 1)), rel=1e-6)


@pytest.mark.slow
def test_a_network_that_takes_all_for_one_class_is_told_of(capfd, tmp_path):
    """With rates thirty times those of quick.yaml, in its first epoch; of three answers nothing is said."""
    batch = [torch.log_softmax(torch.eye(3), 1), torch.tensor([0, 1, 1])]
    assert collapse(errors(*batch).tolist(), ["ant", "bee", "cat"]) == []
    batch[0] = batch[0][[1, 1, 1]]
    said, _ = collapse(errors(*batch).tolist(), ["ant", "bee", "cat"])
    assert said.startswith("all 3 test images are taken for bee: nothing is told apart")
    sums = errors(*batch).tolist()
    assert mean_errors(sums) == {"test_loss": sums[0] / 3, "top1_error": pytest.approx(1 / 3)}
    high = ["optim.schedule.0.weights=0.3", "train.max_steps=93"]
    train(*(part for setting in high for part in ("--set", setting)), "--out", tmp_path / "run")
    assert "all 1000 test images are taken for " in capfd.readouterr().out
