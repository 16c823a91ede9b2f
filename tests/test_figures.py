"""If these fail, what is drawn of a network is not what it looks for, answers or finds alike."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, program, train

from alexnet2gpu import checkpoint, figures, look
from alexnet2gpu.config import load_config
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.model import AlexNet


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps of the small network with two towers, on noise."""
    folder = tmp_path_factory.mktemp("tiny")
    train("--set", "data.name=synthetic", "--set", "train.max_steps=2", "--out", folder)
    return folder


@pytest.fixture(scope="module")
def trained(run):
    """The network of that run, its training and its validation images."""
    config = load_config(run / "config.yaml")
    images, test = load_images(config.data, config.model)
    return look.load(config, checkpoint.newest(run), images, torch.device("cpu")), images, test


def draw(*arguments):
    program("figures").main([str(argument) for argument in arguments])


def test_grey_kernels_have_no_colour_and_opponent_ones_nothing_else():
    """A blob of one colour counts as much as an edge between two; red alone is a third grey."""
    shape = torch.randn(1, 1, 5, 5, generator=torch.manual_seed(0))
    directions = torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 0, 0]])
    for pattern in (shape, torch.ones_like(shape)):
        found = look.colourfulness(directions[:, :, None, None] * pattern)  # of (3, 3, 5, 5)
        assert torch.allclose(found, torch.tensor([0, 1, 2 / 3], dtype=found.dtype))
    assert look.colourfulness(torch.zeros(2, 3, 5, 5)).tolist() == [0, 0]


def test_a_towers_share_of_colour_counts_strong_kernels_for_more():
    """And of weights that were drawn and not trained, two thirds are colour."""
    grey, opponent = torch.ones(1, 3, 2, 2), torch.tensor([1.0, -1, 0]).reshape(1, 3, 1, 1)
    both = torch.cat([3 * grey, opponent.expand(1, 3, 2, 2)])  # energies 9 * 3 and 2 a pixel
    assert look.colour_share(both) == pytest.approx(2 / 29)
    assert look.colour_share(0 * both) == 0
    weight = torch.randn(96, 3, 11, 11, generator=torch.manual_seed(0))
    assert look.colour_share(weight) == pytest.approx(2 / 3, abs=0.02)


def test_features_are_what_the_classifier_reads(trained):
    """fc7 of both towers, joined; in the order in which images were chosen, more than a batch."""
    network, images, _ = trained
    assert torch.equal(look.kernels(network.model)[1], network.model.towers["1"].conv1.weight)
    chosen = np.random.default_rng(0).permutation(len(images))[:70]
    x = network.prepare(torch.from_numpy(images.pixels[chosen]))
    with torch.no_grad():
        for stage in range(4):
            x = torch.cat([tower(stage, x) for tower in network.model.towers.values()], 1)
    found = look.features(network, images, chosen)
    assert found.shape == x.shape and torch.allclose(found, x, rtol=1e-4, atol=1e-4)


def untrained_features(config):
    """Of the first three training images."""
    images, _ = load_images(config.data, config.model)
    prepare = Preparation(images, config, torch.device("cpu"))
    network = look.Trained(config, AlexNet(config.model).eval(), prepare)
    return look.features(network, images, np.arange(3))


def test_features_are_joined_where_the_classifier_begins_no_stage():
    """LeNet is one stage; of two towers whose last stage is fc7 and fc8, each classifier reads its
    own tower's fc7."""
    lenet = load_config("configs/lenet.yaml", ["data.name=synthetic"])
    assert untrained_features(lenet).shape == (3, 84)
    config = load_config("configs/quick.yaml", ["data.name=synthetic"])
    *first, fc7, fc8 = config.model.stages
    config = replace(config, model=replace(config.model, stages=(*first, fc7 | fc8)))
    assert untrained_features(config).shape == (3, 512)


def test_the_nearest_are_those_of_a_plain_search(monkeypatch):
    monkeypatch.setattr(look, "BLOCK", 7)
    draw = np.random.default_rng(0)
    queries, among = draw.normal(size=(5, 9)), draw.normal(size=(40, 9))
    among[30] = among[3]  # of equals, the first comes first
    near, distances = look.nearest(torch.from_numpy(queries), torch.from_numpy(among), 6)
    for query, found, at in zip(queries, near.tolist(), distances.tolist()):
        plain = np.sqrt(((among - query) ** 2).sum(1))
        assert found == np.argsort(plain, kind="stable")[:6].tolist()
        assert np.allclose(at, plain[found])


def test_an_image_is_its_own_nearest_neighbour(trained):
    """Of 50 images, evenly spread."""
    assert look.spread(100, 4).tolist() == [12, 37, 62, 87]
    network, _, test = trained
    features = look.features(network, test, look.spread(len(test), 50))
    near, distances = look.nearest(features, features, 1)
    assert near[:, 0].tolist() == list(range(50)) and not distances.any()


def test_answers_are_probabilities_of_all_images_in_their_order(trained):
    network, _, test = trained
    found = look.answers(network, test)
    with torch.no_grad():
        logits = network.model(network.prepare(torch.from_numpy(test.pixels))).double()
    assert np.allclose(found, logits.softmax(1), atol=1e-5) and found.shape == (64, 10)


def test_confusions_are_counted():
    draw = np.random.default_rng(0)
    labels, answered = draw.integers(4, size=(2, 50))
    plain = np.zeros((4, 4), int)
    for label, answer in zip(labels, answered):
        plain[label, answer] += 1
    assert (look.confusion(labels, answered, 4) == plain).all()
    counts = np.array([[9, 2, 0], [5, 8, 0], [0, 1, 7]])
    assert look.most_confused(counts, 2) == [(1, 0, 5), (0, 1, 2)]
    assert look.most_confused(counts, 9) == [(1, 0, 5), (0, 1, 2), (2, 1, 1)]


def test_curves_are_read_from_a_run_that_is_going_on(tmp_path):
    """Its last line may be half written."""
    lines = [{"step": 20, "loss": 2.5}, {"step": 40, "loss": 2.0}, {"step": 40, "top1_error": 0.5}]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"step": 60, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    found = look.history(tmp_path)
    assert found["loss"] == ([20, 40], [2.5, 2.0]) and found["top1_error"] == ([40], [0.5])
    assert look.histories([tmp_path]) == {tmp_path.name: found}
    same = [tmp_path, tmp_path / ".." / tmp_path.name]
    assert list(look.histories(same)) == list(map(str, same))


def written(folder):
    files = sorted(folder.glob("*"))
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files)
    return [file.stem for file in files]


def test_all_figures_of_a_run_are_drawn(run, tmp_path, capsys):
    """Of one without a checkpoint, the curves."""
    pytest.importorskip("matplotlib")
    draw(run, run, "--among", 40)
    names = written(run / "figures")
    assert names == ["confusion", "curves", "filters", "neighbours", "predictions"]
    expected = [f"{run}/figures/{name}.png" for name in names]
    assert sorted(capsys.readouterr().out.split()) == expected
    (tmp_path / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text())
    draw(tmp_path, run, "--out", tmp_path / "out")
    assert written(tmp_path / "out") == ["curves"]
    assert "no checkpoint yet" in capsys.readouterr().out


def test_colours_and_names_are_drawn(tmp_path):
    """Three towers; names too long for their places, and one that would be a formula."""
    pytest.importorskip("matplotlib")
    figures.filters(3 * [torch.rand(20, 3, 3, 3)], [0.1, 0.2, 0.3], tmp_path / "filters.png")
    labels, names = np.arange(3), ("$1 and $2", "a name " * 20, "c")
    images = Images(np.zeros((3, 8, 8, 3), np.uint8), labels, 3, names)
    figures.predictions(images, labels, np.eye(3), tmp_path / "predictions.png")
    figures.neighbours(images, [0], images, np.array([[2]]), np.ones((1, 1)), tmp_path / "n.png")
    figures.confusion(np.ones((40, 40), int), images, tmp_path / "confusion.png")
    assert len(written(tmp_path)) == 4


def mistake(capsys, *arguments):
    """The one line that the program ends in."""
    with pytest.raises(SystemExit) as end:
        draw(*arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--among", "0"], "--among: should be a whole number, at least 1"),
        (["--out", REPOSITORY / "README.md"], "File exists"),
        (["--set", "data.nome=x"], "data.nome"),
        (["configs"], "configs: no metrics.jsonl in it"),
    ],
)
def test_mistakes_end_in_one_line(run, arguments, complaint, capsys):
    pytest.importorskip("matplotlib")
    assert complaint in mistake(capsys, run, *arguments)


def test_without_matplotlib_it_says_how_to_get_it(run, capsys, monkeypatch):
    monkeypatch.setattr(figures, "possible", lambda: False)
    assert "pip install -e '.[plots]'" in mistake(capsys, run)
