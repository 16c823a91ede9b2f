"""If these fail, training is not that of 2012: other pixels, colours, rates, or another network.

Batches are compared with loops over single images in plain numpy, rates with a table that was
written by hand from the notes of 2012, networks with their published counts.
"""

import shutil

import numpy as np
import pytest
import torch
import yaml

from alexnet2gpu import layers, strict
from alexnet2gpu.config import REPOSITORY, load_config
from alexnet2gpu.data import prepare as prepare_module
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.crops import Places
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation, colour_components
from alexnet2gpu.data.table import draw_epoch
from alexnet2gpu.kinds import Conv, Linear, Lrn, MapNorm
from alexnet2gpu.levers import Levers
from alexnet2gpu.network import totals, trace, traffic
from alexnet2gpu.optim import rate_of

CPU = torch.device("cpu")
CROP, BATCH = 8, 6


def coloured(count=40, height=13, width=12):
    """Photographs whose channels go together, as those of photographs do."""
    draw = np.random.default_rng(0)
    grey = draw.normal(120, 50, (count, height, width, 1))
    tint = draw.normal(0, 1, (count, 1, 1, 3)) * [25, 5, 15]
    pixels = grey * [1, 0.9, 0.7] + tint + draw.normal(0, 9, (count, height, width, 3))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return Images(pixels, draw.integers(0, 10, count), classes=10)


def config(*overrides):
    """Crops of 8, batches of 6, colour noise and mirroring; from epoch 3 on without noise."""
    return load_config(
        "configs/quick.yaml",
        [
            f"data.crop={CROP}", f"train.batch={BATCH}", "data.flip=true", "data.colour=0.3",
            "model.input=[3, 8, 8]",
            "model.stages=[{flatten: flatten, fc: {type: linear, out: 10, init: 1}}]",
            "optim.schedule=[{epoch: 1, weights: 0, biases: 0}, {epoch: 3, colour: 0}]",
            *overrides,
        ],
    )  # fmt: skip


def batches(images, settings, replica=0, replicas=1):
    """As launch/train.py makes them."""
    return TrainBatches(images, settings, Preparation(images, settings, CPU), replica, replicas)


def principal(images):
    """Eigenvalues and eigenvectors of the colours, each vector's largest entry positive."""
    values, vectors = np.linalg.eigh(np.cov(images.pixels.reshape(-1, 3).T.astype(float), ddof=0))
    for vector in vectors.T:
        vector *= np.sign(vector[np.abs(vector).argmax()])
    return values, vectors


def one_by_one(images, settings, epoch, strength):
    """Image by image in numpy: crop, mirror, less the mean, plus the colour, divided."""
    law, seed = settings.data.colour_law, settings.train.seed
    table = draw_epoch(seed, epoch, images.pixels.shape, CROP, settings.data.flip)
    values, vectors = principal(images)
    sigma = np.sqrt(values) if law == "2012" else values / 255
    mean = images.pixels.astype(np.float64).mean(0)[2 : 2 + CROP, 2 : 2 + CROP]
    pictures = []
    for i in table.order[: len(images) // BATCH * BATCH]:
        y, x = table.top[i], table.left[i]
        crop = images.pixels[i].astype(np.float64)[y : y + CROP, x : x + CROP]
        crop = crop[:, ::-1] if table.flip[i] else crop
        picture = crop - mean + vectors @ (strength * table.colour[i] * sigma)
        picture /= settings.data.divide * (1 + strength if law == "2012" else 1)
        pictures.append(picture.transpose(2, 0, 1))
    return np.stack(pictures), images.labels[table.order[: len(pictures)]]


@pytest.mark.parametrize("epoch, strength", [(2, 0.3), (3, 0)])
@pytest.mark.parametrize("law", ["2012", "text"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("at_once", [1, 400, 2**18])  # 1, 2 or all images at a time
def test_batches_with_colour_noise_are_those_made_one_by_one(
    epoch, strength, law, precision, at_once, monkeypatch
):
    monkeypatch.setattr(prepare_module, "AT_ONCE", at_once)
    images = coloured()
    settings = config(
        f"data.colour_law={law}", f"train.precision={precision}", "data.divide=2"
    )
    seen = list(batches(images, settings).epoch(epoch))
    pictures, labels = one_by_one(images, settings, epoch, strength)
    x = torch.cat([x for x, _ in seen])
    assert len(seen) == 6 and x.dtype == getattr(torch, precision)
    np.testing.assert_allclose(x.numpy(), pictures, rtol=0, atol=1e-6 * 255)
    assert torch.cat([labels for _, labels in seen]).tolist() == labels.tolist()


def test_the_noise_of_the_reference_matters():
    """Without it, and with the other law, the comparison above would see it."""
    images, settings = coloured(), config()
    with_noise, without = (one_by_one(images, settings, 1, s)[0] for s in (0.3, 0))
    other = one_by_one(images, config("data.colour_law=text"), 1, 0.3)[0]
    assert np.abs(with_noise - without).max() > 5 and np.abs(with_noise - other).max() > 5


@pytest.mark.parametrize("threads", [1, 3])
def test_crops_are_slices_to_the_bit(threads):
    """Of more batches than there are buffers, and of fewer images at the end."""
    images, draw = coloured(), np.random.default_rng(1)
    places = [
        Places(*(draw.integers(limit, size=count) for limit in (40, 6, 5)))
        for count in [7] * 9 + [2]
    ]
    prepare = Preparation(images, config(f"data.threads={threads}"), CPU)
    for crops, (chosen, top, left) in zip(prepare.cut(images, places), places):
        expected = [
            images.pixels[i][y : y + CROP, x : x + CROP] for i, y, x in zip(chosen, top, left)
        ]
        assert crops.dtype == torch.uint8 and np.array_equal(crops.numpy(), expected)


def test_how_far_colours_move_is_drawn_from_a_normal_distribution():
    moves = draw_epoch(0, 1, (40_000, 9, 9, 3), 8, True).colour
    assert moves.shape == (40_000, 3)
    np.testing.assert_allclose(moves.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(np.cov(moves.T), np.eye(3), atol=0.03)
    assert np.mean(np.abs(moves) > 1.96) == pytest.approx(0.05, abs=0.005)
    assert not np.array_equal(moves, draw_epoch(0, 2, (40_000, 9, 9, 3), 8, True).colour)


@pytest.mark.parametrize("law", ["2012", "text"])
def test_the_noise_has_the_covariance_of_the_pixels(law):
    """strength^2 times it, over many draws on black images; by the law of the text, with the
    eigenvalues, of pixels from 0 to 1, in place of their roots."""
    images = coloured()
    prepare = Preparation(images, config("data.mean=none", f"data.colour_law={law}"), CPU)
    colour = draw_epoch(0, 1, (40_000, 9, 9, 3), 8, True).colour
    black = torch.zeros(len(colour), 1, 1, 3, dtype=torch.uint8)
    noise = prepare(black, colour=colour, strength=0.3).flatten(1).double().numpy()
    covariance = np.cov(images.pixels.reshape(-1, 3).T.astype(float))
    if law == "2012":
        noise = noise * 1.3
    else:
        covariance = covariance @ covariance / 255**2
    np.testing.assert_allclose(
        np.cov(noise.T), 0.3**2 * covariance, rtol=0, atol=0.05 * 0.3**2 * covariance.max()
    )


def test_the_components_of_imagenet_have_the_lengths_that_were_published():
    """Standard deviations along the principal components of ImageNet's colours; any directions."""
    lengths = np.array([19.7, 37.1, 121.8])
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    covariance = axes @ np.diag(lengths**2) @ axes.T
    for law, expected in (("2012", lengths), ("text", lengths**2 / 255)):
        components = colour_components(covariance, law)
        np.testing.assert_allclose(np.linalg.norm(components, axis=0), expected, rtol=1e-6)
        cosines = (components / expected * axes).sum(0)
        np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-6)


# From epoch ... to ..., the rates of conv1 (weights, biases), of others (weights, biases), colour
SCHEDULE = [
    (1, 24, 0.01, 0.02, 0.01, 0.02, 0.1),
    (25, 50, 0.001, 0.002, 0.001, 0.002, 0.1),
    (51, 66, 1e-4, 0.002, 1e-4, 0.002, 0.1),
    (67, 71, 1e-5, 0.002, 1e-4, 0.002, 0),
    (72, 78, 0, 0, 1e-4, 0.002, 0),
    (79, 90, 0, 0, 1e-5, 0.002, 0),
]


def test_the_schedule_of_2012_in_every_one_of_90_epochs():
    settings = load_config("configs/alexnet.yaml")
    names = [row.name for row in trace(settings.model) if row.parameters]
    assert settings.train.epochs == 90 and len(names) == 8
    for first, last, *conv1, weights, biases, colour in SCHEDULE:
        for epoch in range(first, last + 1):
            assert settings.colour_in(epoch) == colour, f"epoch {epoch}"
            for name in names:
                seen = [rate_of(settings.optim.schedule, epoch, name, kind)
                        for kind in ("weights", "biases")]
                expected = conv1 if name == "conv1" else [weights, biases]
                assert seen == expected, f"epoch {epoch}, {name}"


def same(ones, others):
    """Whether two lists of batches are equal to the bit."""
    return len(ones) == len(others) and all(
        torch.equal(a, b) for one, other in zip(ones, others) for a, b in zip(one, other)
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_of_ranks_replicas_and_resumed_runs_are_parts_of_the_same(threads):
    """Two ranks of a split see the same; three replicas together what one sees; a run that is
    resumed in mid-epoch the rest. Threads change nothing."""
    images, settings = coloured(), config(f"data.threads={threads}")
    whole = list(batches(images, config("data.threads=2")).epoch(2))
    assert same(whole, list(batches(images, settings).epoch(2)))
    parts = [list(batches(images, settings, replica, 3).epoch(2)) for replica in range(3)]
    assert {len(x) for part in parts for x, _ in part} == {2}
    together = [
        tuple(torch.cat(tensors) for tensors in zip(*step)) for step in zip(*parts)
    ]
    assert same(whole, together)
    assert same(whole[4:], list(batches(images, settings).epoch(2, first=4)))
    assert not same(whole, list(batches(images, settings).epoch(1)))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mean", ["image", "none"])
def test_a_batch_does_not_change_while_later_ones_are_cut(threads, mean):
    """The buffers of the crops are used again; what was given lies elsewhere."""
    images = coloured(200)
    settings = config(f"data.threads={threads}", f"data.mean={mean}", "data.flip=false")
    for epoch in (1, 3):  # with colour noise and without
        seen = [
            ((x, labels), (x.clone(), labels.clone()))
            for x, labels in batches(images, settings).epoch(epoch)
        ]
        assert len(seen) == 33 and same(*(list(kept) for kept in zip(*seen)))


def model(name):
    return load_config(f"configs/{name}.yaml").model


@pytest.mark.parametrize(
    "name, parameters, multiply_adds",
    [
        ("half", 59_798_312, 391_514_384),
        ("no_norm", 60_965_224, 724_406_816),
        ("no_norm2", 60_965_224, 724_406_816),
        ("paper", 60_965_224, 724_406_816),
        ("pool2x2", 60_965_224, None),
        ("no_communication", 60_714_408, None),
    ],
)
def test_a_variant_has_its_parameters_and_multiply_adds(name, parameters, multiply_adds):
    counted = totals(model(name))
    assert counted == (parameters, multiply_adds or counted[1])


def test_pool2x2_has_the_maps_of_2012():
    sides = {row.name: row.gives[-1] for row in trace(model("pool2x2"))}
    names = ("conv1", "pool1", "conv2", "pool2", "conv4", "conv5", "pool5")
    assert [sides[name] for name in names] == [55, 28, 26, 13, 13, 11, 6]


def test_the_towers_of_no_communication_meet_once_before_the_logits():
    """After fc7, 2,048 values an image; then the logits, whose gradient every rank has."""
    assert traffic(model("no_communication")) == [(4 * 2048, 4 * 2048), (4 * 500, 0)]


def test_normalisations_are_where_the_variant_has_them():
    norms = {
        name: [row.name for row in trace(model(name)) if isinstance(row.layer, Lrn | MapNorm)]
        for name in ("alexnet", "no_norm", "no_norm2", "paper")
    }
    assert norms == {
        "alexnet": ["norm1", "norm2", "map_norm2"], "no_norm": [], "no_norm2": ["norm1"],
        "paper": ["norm1", "norm2"],
    }  # fmt: skip


def test_the_papers_text_has_weights_of_001_and_1e_4_times_the_plain_sum():
    rows = trace(model("paper"))
    weights = [row.layer.init for row in rows if isinstance(row.layer, Conv | Linear)]
    assert weights == [0.01] * 8
    x = 300 * torch.rand(2, 9, 4, 4, dtype=torch.float64)
    for row in (row for row in rows if isinstance(row.layer, Lrn)):
        y = layers.build(row, None, Levers())(x)
        for i in range(9):
            around = x[:, max(0, i - 2) : i + 3].square().sum(1)
            torch.testing.assert_close(y[:, i], x[:, i] / (2 + 1e-4 * around) ** 0.75)


CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
DERIVED = [file for file in CONFIGS if "\nbase:" in file.read_text()]


def leaves(value, path=""):
    """Path -> value of everything in a tree that is no section."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    found = {}
    for key, entry in entries:
        below = f"{path}{key}"
        more = isinstance(entry, dict | list) and entry
        found |= leaves(entry, f"{below}.") if more else {below: entry}
    return found


def test_there_are_derived_configs():
    known = {"half", "no_norm", "no_norm2", "pool2x2", "no_communication", "paper"}
    assert known <= {file.stem for file in DERIVED}


@pytest.mark.parametrize("file", DERIVED, ids=lambda file: file.stem)
def test_a_derived_config_differs_from_its_base_in_what_it_names_only(file):
    named = strict.read(file.read_text())
    base = named.pop("base")
    ours, theirs = (
        leaves(strict.plain(load_config(path))) for path in (file, file.parent / base)
    )
    others = {path for path in ours | theirs if ours.get(path, ...) != theirs.get(path, ...)}
    for path in others:
        assert any(f"{path}.".startswith(f"{name}.") for name in named), f"{path} is not named"
    for name, value in named.items():
        assert any(f"{path}.".startswith(f"{name}.") for path in others), f"{name} changes nothing"
        for path, expected in leaves({name: value}).items():
            assert ours[path] == expected


def derive(folder, **files):
    """Config files beside a copy of quick.yaml."""
    shutil.copy(REPOSITORY / "configs" / "quick.yaml", folder)
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / "mine.yaml"


def test_a_base_may_have_a_base(tmp_path):
    file = derive(
        tmp_path,
        mine={"base": "theirs.yaml", "train.batch": 5, "model.stages.0.conv1.init": 0.5},
        theirs={"base": "quick.yaml", "train.batch": 4, "train.epochs": 3},
    )
    ours = load_config(file, ["train.seed=9"])
    assert (ours.train.batch, ours.train.epochs, ours.train.seed) == (5, 3, 9)
    changes = ["train.batch=5", "train.epochs=3", "train.seed=9", "model.stages.0.conv1.init=0.5"]
    assert ours == load_config("configs/quick.yaml", changes)


@pytest.mark.parametrize(
    "files, complaint",
    [
        ({"mine": {"base": "nowhere.yaml"}}, "base: no file nowhere.yaml lies beside this one"),
        ({"mine": {"base": None}}, "base: no file None lies beside this one"),
        ({"mine": {"base": "mine.yaml"}}, "base: no file mine.yaml lies beside this one, or it"),
        ({"mine": {"base": "sub/../mine.yaml"}}, "or it is based on this"),
        (
            {"mine": {"base": "theirs.yaml"}, "theirs": {"base": "mine.yaml"}},
            "or it is based on this",
        ),
        ({"mine": {"base": "quick.yaml", "train.bach": 3}},
         "train.bach: unknown key; did you mean batch?"),
        ({"mine": {"base": "quick.yaml", "trian.batch": 3}},
         "trian: unknown key; did you mean train?"),
        ({"mine": {"base": "quick.yaml", "model.stages.9.conv1.out": 3}},
         "there is nothing at model.stages.9"),
        ({"mine": {"base": "quick.yaml", "train.batch": "many"}},
         'train.batch: should be a whole number, not "many"'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_slip_in_a_derived_config_is_one_line_with_file_and_key(files, complaint, tmp_path):
    (tmp_path / "sub").mkdir()
    file = derive(tmp_path, **files)
    with pytest.raises(ValueError) as error:
        load_config(file)
    assert str(error.value).startswith(f"{file}: ") and complaint in str(error.value)
    assert "\n" not in str(error.value)
