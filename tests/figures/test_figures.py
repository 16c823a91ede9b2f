"""If these fail, what is drawn of a network is not what it looks for, answers or finds alike."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, program, train

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.figures import answers, curves, filters, memory, neighbours, page
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.runs import evaluate
from alexnet2gpu.runs.checkpoints import format as checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps of the small network with two towers, on noise."""
    folder = tmp_path_factory.mktemp("tiny")
    train("--set", "data.name=synthetic", "--set", "train.max_steps=2", "--out", folder)
    return folder


@pytest.fixture(scope="module")
def trained(run):
    """The network of that run, its training and its validation images."""
    saved = evaluate.find_saved(run)
    return saved.load(torch.device("cpu")), *load_images(saved.config.data, saved.config.model)


def draw(*arguments):
    program("figures").main([str(argument) for argument in arguments])


def test_grey_kernels_have_no_colour_and_opponent_ones_nothing_else():
    """A blob of one colour counts as much as an edge between two; red alone is a third grey."""
    shape = torch.randn(1, 1, 5, 5, generator=torch.manual_seed(0))
    directions = torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 0, 0]])
    for pattern in (shape, torch.ones_like(shape)):
        found = filters.colourfulness(directions[:, :, None, None] * pattern)  # of (3, 3, 5, 5)
        assert torch.allclose(found, torch.tensor([0, 1, 2 / 3], dtype=found.dtype))
    assert filters.colourfulness(torch.zeros(2, 3, 5, 5)).tolist() == [0, 0]


def test_a_towers_share_of_colour_counts_strong_kernels_for_more():
    """And of weights that were drawn and not trained, two thirds are colour."""
    grey, opponent = torch.ones(1, 3, 2, 2), torch.tensor([1.0, -1, 0]).reshape(1, 3, 1, 1)
    both = torch.cat([3 * grey, opponent.expand(1, 3, 2, 2)])  # energies 9 * 3 and 2 a pixel
    assert filters.colour_share(both) == pytest.approx(2 / 29)
    assert filters.colour_share(0 * both) == 0
    weight = torch.randn(96, 3, 11, 11, generator=torch.manual_seed(0))
    assert filters.colour_share(weight) == pytest.approx(2 / 3, abs=0.02)


def test_the_network_is_that_of_the_checkpoint(run, trained):
    for tower, module in trained[0].model.towers.items():
        saved = torch.load(checkpoint.newest_checkpoint(run) / f"tower-{tower}.pt")["weights"]
        for name, parameter in module.named_parameters():
            assert torch.equal(parameter, saved[f"towers.{tower}.{name}"])


def test_features_are_what_the_classifier_reads(trained):
    """fc7 of both towers, joined; in the order in which images were chosen, more than a batch."""
    network, images, _ = trained
    assert torch.equal(filters.first_kernels(network.model)[1], network.model.towers["1"].conv1.weight)
    chosen = np.random.default_rng(0).permutation(len(images))[:70]
    x = network.prepare(torch.from_numpy(images.pixels[chosen]))
    with torch.no_grad():
        for stage in range(4):
            x = torch.cat([tower(stage, x) for tower in network.model.towers.values()], 1)
    found = neighbours.features(network, images, chosen)
    assert found.shape == x.shape and torch.allclose(found, x, rtol=1e-4, atol=1e-4)


def untrained_features(config):
    """Of the first three training images."""
    images, _ = load_images(config.data, config.model)
    prepare = Preparation(images, config, torch.device("cpu"))
    network = evaluate.Trained(config, AlexNet(config.model).eval(), prepare)
    return neighbours.features(network, images, np.arange(3))


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
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    draw = np.random.default_rng(0)
    queries, among = draw.normal(size=(5, 9)), draw.normal(size=(40, 9))
    among[30] = among[3]  # of equals, the first comes first
    near, distances = neighbours.nearest(torch.from_numpy(queries), torch.from_numpy(among), 6)
    for query, found, at in zip(queries, near.tolist(), distances.tolist()):
        plain = np.sqrt(((among - query) ** 2).sum(1))
        assert found == np.argsort(plain, kind="stable")[:6].tolist()
        assert np.allclose(at, plain[found])


def test_an_image_is_its_own_nearest_neighbour(trained):
    """Of 50 images, evenly spread."""
    assert page.spread(100, 4).tolist() == [12, 37, 62, 87]
    network, _, test = trained
    features = neighbours.features(network, test, page.spread(len(test), 50))
    near, distances = neighbours.nearest(features, features, 1)
    assert near[:, 0].tolist() == list(range(50)) and not distances.any()


def test_answers_are_probabilities_of_all_images_in_their_order(trained):
    network, _, test = trained
    found = network.classify(test)[0].exp().numpy()
    with torch.no_grad():
        logits = network.model(network.prepare(torch.from_numpy(test.pixels))).double()
    assert np.allclose(found, logits.softmax(1), atol=1e-5) and found.shape == (64, 10)


def test_confusions_are_counted():
    draw = np.random.default_rng(0)
    labels, answered = draw.integers(4, size=(2, 50))
    plain = np.zeros((4, 4), int)
    for label, answer in zip(labels, answered):
        plain[label, answer] += 1
    assert (answers.confusion(labels, answered, 4) == plain).all()
    counts = np.array([[9, 2, 0], [5, 8, 0], [0, 1, 7]])
    assert answers.most_confused(counts, 2) == [(1, 0, 5), (0, 1, 2)]
    assert answers.most_confused(counts, 9) == [(1, 0, 5), (0, 1, 2), (2, 1, 1)]


def test_curves_are_read_from_a_run_that_is_going_on(tmp_path):
    """Its last line may be half written."""
    lines = [{"step": 20, "loss": 2.5}, {"step": 40, "loss": 2.0}, {"step": 40, "top1_error": 0.5}]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"step": 60, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    found = curves.read_history(tmp_path)
    assert found["loss"] == ([20, 40], [2.5, 2.0]) and found["top1_error"] == ([40], [0.5])
    assert curves.read_histories([tmp_path]) == {tmp_path.name: found}
    same = [tmp_path, tmp_path / ".." / tmp_path.name]
    assert list(curves.read_histories(same)) == list(map(str, same))


def written(folder):
    files = sorted(folder.glob("*"))
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files)
    return [file.stem for file in files]


@pytest.fixture
def drawn(monkeypatch):
    """A function that draws with one of figures/ and gives the axes of what would be saved."""
    pytest.importorskip("matplotlib")
    kept = []
    for module in (answers, curves, filters, memory):
        monkeypatch.setattr(module, "save", lambda figure, file: kept.append(figure))

    def draw_and_look(function, *arguments):
        function(*arguments, None)
        return kept[-1].axes

    return draw_and_look


def test_all_kernels_are_drawn_on_one_scale(drawn):
    """Those of the second tower, a tenth as strong, are all nearly grey."""
    strong = torch.linspace(-1, 1, 20 * 27).reshape(20, 3, 3, 3)
    first, second = (
        axes.images[0].get_array() for axes in drawn(filters.draw, [strong, strong / 10], [0.5, 0.5])
    )
    assert np.allclose(first[:3, :3], (strong[0].permute(1, 2, 0) + 1) / 2)  # kernel 0
    assert np.allclose(first[4:7, :3], (strong[16].permute(1, 2, 0) + 1) / 2)  # in the second row
    inside = second[:3, :3]
    assert inside.min() >= 0.45 - 1e-6 and inside.max() <= 0.55 + 1e-6


def test_bars_are_the_five_likeliest_classes(drawn):
    images = Images(np.zeros((2, 8, 8, 3), np.uint8), np.array([6, 0]), 8, tuple("abcdefgh"))
    p = np.array([[1, 2, 3, 4, 5, 6, 7, 8], [30, 1, 1, 1, 1, 1, 1, 0]]) / 36
    axes = drawn(answers.draw, images, [0, 1], p)
    bars = axes[2].patches  # below the first image
    assert np.allclose([bar.get_width() for bar in bars], np.array([8, 7, 6, 5, 4]) / 36)
    names = [text.get_text() for text in axes[2].texts[::2]]
    assert names == list("hgfed") and axes[0].get_title() == "g"
    colours = [bar.get_facecolor() for bar in bars]
    assert colours.count(colours[1]) == 1  # the true one, in second place


def test_bars_of_few_classes_leave_no_gap(drawn):
    """Of two classes two bars, which fill what is below the image, in a lower figure than of five."""
    heights = []
    for classes in (2, 5):
        images = Images(np.zeros((1, 8, 8, 3), np.uint8), np.array([0]), classes, tuple("abcde"[:classes]))
        axes = drawn(answers.draw, images, [0], np.full((1, classes), 1 / classes))
        assert len(axes[1].patches) == classes
        assert axes[1].get_ylim() == pytest.approx((classes - 0.4, -0.6))
        heights.append(axes[0].figure.get_figheight())
    assert heights[0] < heights[1] - 0.5


def test_a_row_of_the_matrix_is_the_true_class(drawn):
    images = Images(np.zeros((1, 8, 8, 3), np.uint8), np.array([0]), 3, ("a", "b", "c"))
    axes = drawn(answers.draw_confusion, np.array([[9, 1, 0], [5, 5, 0], [0, 0, 4]]), images)
    assert axes[0].images[0].get_array().tolist() == [[90, 10, 0], [50, 50, 0], [0, 0, 100]]
    assert (axes[0].get_ylabel(), axes[0].get_xlabel()) == ("true class", "answer")
    assert "b: 5 of 10\n  taken for a" in axes[1].texts[0].get_text()


def test_curves_are_drawn_in_percent(drawn):
    history = {"loss": ([1, 2], [3.0, 2.0]), "top1_error": ([2], [0.25])}
    above, below = drawn(curves.draw, {"a": history})
    assert above.lines[0].get_ydata().tolist() == [3.0, 2.0]
    assert any(np.array_equal(line.get_ydata(), [25]) for line in below.lines)


def names_below(axes):
    """The names below all axes, if they lie in the figure and none on another."""
    axes[0].figure.draw_without_rendering()
    labels = [label for each in axes for label in each.get_xticklabels() if label.get_visible()]
    boxes = [label.get_window_extent() for label in labels]
    for (one, box), (other, beside) in itertools.combinations(zip(labels, boxes), 2):
        assert not box.overlaps(beside), f"{one.get_text()} and {other.get_text()} overlap"
    assert all(axes[0].figure.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))
    assert min(label.get_fontsize() for label in labels) >= 8
    return [label.get_text() for label in labels]


BATCHES = ["32", "64", "128", "256", "512", "1024"]


TWO, FOUR = ["single", "split"], ["single", "split", "ddp", "grid"]


@pytest.mark.parametrize(
    "modes, precisions, batches, title, below",
    [
        (["split"], ["float32"], BATCHES[:1], "alexnet, split, float32, batch 32", ["split"]),
        (TWO, ["float32"], BATCHES[:1], "alexnet, float32, batch 32", TWO),
        (TWO, ["float32"], BATCHES[:2], "alexnet, float32", ["32", "64", "32", "64", *TWO]),
        (FOUR, ["float32"], BATCHES, "alexnet, float32", [*4 * BATCHES, *FOUR]),
        (TWO, ["a", "bfloat16"], BATCHES[:1], "alexnet, batch 32", [*2 * ["a", "bfloat16"], *TWO]),
    ],
)
def test_bars_of_memory_say_once_what_is_the_same(drawn, modes, precisions, batches, title, below):
    rows = [
        {"config": "alexnet", "mode": mode, "precision": precision, "batch": int(batch)}
        | {"predicted": {}, "at_worst": {"weights": 2**20}}
        for mode, precision, batch in itertools.product(modes, precisions, batches)
    ]
    (axes,) = drawn(memory.draw_bars, rows)
    found = [name for name in names_below([axes, *axes.child_axes]) if name]
    assert found == below and axes.get_title() == f"{title}: memory of a rank"


def test_of_many_places_of_a_step_the_worst_is_named(drawn):
    places = [("start", ""), *(("backward", f"towers.{n % 2}.map_norm{n}") for n in range(130))]
    moments = [SimpleNamespace(place=place, parts={"weights": 2**20}) for place in places]
    for worst in (moments[76], moments[77], moments[130]):
        axes = drawn(memory.draw_timeline, "", SimpleNamespace(moments=moments, worst=worst), [])
        _, tower, name = worst.place[1].split(".")
        assert f"{name} ({tower})" in names_below(axes)


def test_neighbours_are_sought_among_training_images(run, trained, monkeypatch):
    """For five test images, among 40 of the 512, by their numbers among all."""
    pytest.importorskip("matplotlib")
    network, images, test = trained
    asked = []
    monkeypatch.setattr(neighbours, "draw", lambda *arguments: asked.extend(arguments))
    draw(run, "--among", 40)
    queries, chosen, _, near, distances, _ = asked
    many, few = page.spread(len(images), 40), page.spread(len(test), 5)
    assert np.array_equal(queries.pixels, test.pixels) and chosen.tolist() == few.tolist()
    theirs, ours = (neighbours.features(network, images, many), neighbours.features(network, test, few))
    for number, query in enumerate(ours):
        plain = (theirs - query).square().sum(1).sqrt()
        order = plain.argsort(stable=True)[:6]
        assert near[number].tolist() == many[order.numpy()].tolist()
        assert np.allclose(distances[number], plain[order], rtol=1e-4)


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


def test_curves_of_several_runs_leave_other_figures_alone(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    draw(run, run, "--curves", "--out", tmp_path)
    assert written(tmp_path) == ["curves"]
    assert capsys.readouterr().out.split() == [f"{tmp_path}/curves.png"]


def test_colours_and_names_are_drawn(tmp_path):
    """Three towers; names too long for their places, and one that would be a formula."""
    pytest.importorskip("matplotlib")
    filters.draw(3 * [torch.rand(20, 3, 3, 3)], [0.1, 0.2, 0.3], tmp_path / "filters.png")
    labels, names = np.arange(3), ("$1 and $2", "a name " * 20, "c")
    images = Images(np.zeros((3, 8, 8, 3), np.uint8), labels, 3, names)
    answers.draw(images, labels, np.eye(3), tmp_path / "predictions.png")
    neighbours.draw(images, [0], images, np.array([[2]]), np.ones((1, 1)), tmp_path / "n.png")
    many = replace(images, classes=40, names=None)
    answers.draw_confusion(np.ones((40, 40), int), many, tmp_path / "confusion.png")
    assert len(written(tmp_path)) == 4


def mistake(capsys, *arguments):
    """The one line that the program ends in."""
    with pytest.raises(SystemExit) as end:
        draw(*arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.strip().count("\n") == 0
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


def test_a_file_that_cannot_be_written_is_told_in_one_line(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "curves.png").mkdir()
    assert "Is a directory" in mistake(capsys, run, "--out", tmp_path)


def test_without_matplotlib_it_says_how_to_get_it(run, capsys, monkeypatch):
    monkeypatch.setattr(page, "has_matplotlib", lambda: False)
    assert "pip install -e '.[plots]'" in mistake(capsys, run)
