"""If these fail, training has not the rates of 2012, or a variant is another network than it says.

Rates are compared with a table that was written by hand from the notes of 2012, networks with
their published counts, and a config over a base with that base.
"""

import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from alexnet2gpu.config import schema
from alexnet2gpu.config.keys import Memory
from alexnet2gpu.config.layers import Conv, Linear, Lrn, MapNorm
from alexnet2gpu.config.load import REPOSITORY, load_config, read_config
from alexnet2gpu.config.network import totals, trace, traffic
from alexnet2gpu.model import layers
from alexnet2gpu.model.optim import rate_of

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
                seen = [rate_of(settings.optim.schedule, epoch, name, kind) for kind in ("weights", "biases")]
                expected = conv1 if name == "conv1" else [weights, biases]
                assert seen == expected, f"epoch {epoch}, {name}"


def model(name):
    return load_config(f"configs/{name}.yaml").model


@pytest.mark.parametrize(
    "name, parameters, multiply_adds",
    [
        ("half", 59_798_312, 391_514_384),
        ("caffe", 60_965_224, 724_406_816),
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


BASE = [row.name for row in trace(model("alexnet"))]
NORMS = ["norm1", "norm2", "map_norm2"]
PAPER = [  # the order of layers 1, 2 and 5 in the text; there is no normalisation within maps
    "conv1",
    "relu1",
    "norm1",
    "pool1",
    "conv2",
    "relu2",
    "norm2",
    "pool2",
    "conv3",
    "relu3",
    "conv4",
    "relu4",
    "conv5",
    "relu5",
    "pool5",
    *BASE[BASE.index("flatten") :],
]
SQUARE = {"kernel": 2, "ceil": True}
VARIANTS = {  # the names of the layers, in order, and what they have otherwise than alexnet.yaml
    "half": (
        BASE,
        {"conv1": {"out": 48}, "conv2": {"out": 128}, "conv3": {"out": 192}, "conv4": {"out": 192}},
    ),
    "no_norm": ([name for name in BASE if name not in NORMS], {}),
    "no_norm2": ([name for name in BASE if name not in NORMS[1:]], {}),
    "pool2x2": (
        BASE,
        {"pool1": SQUARE, "pool2": SQUARE, "pool5": SQUARE, "conv2": {"pad": 1}, "conv5": {"pad": 0}},
    ),
    "no_communication": (BASE, {"conv2": {"out": 320}, "fc6": {"out": 8192}}),
    "paper": (
        PAPER,
        {
            "norm1": {"alpha": 5e-4},
            "norm2": {"alpha": 5e-4},
            "conv3": {"init": 0.01},
            "conv4": {"init": 0.01},
            "conv5": {"init": 0.01},
        },
    ),
    "caffe": (
        PAPER,
        {
            "conv1": {"ceil": False},
            "norm1": {"k": 1},
            "norm2": {"k": 1},
            "conv2": {"bias": 0.1},
            "conv3": {"init": 0.01},
            "conv4": {"init": 0.01, "bias": 0.1},
            "conv5": {"init": 0.01, "bias": 0.1},
            "fc6": {"init": 0.005, "bias": 0.1},
            "fc7": {"init": 0.005, "bias": 0.1},
            "drop6": {"scaling": "inverted"},
            "drop7": {"scaling": "inverted"},
        },
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_layers_of_a_variant_are_those_of_alexnet_but_for_a_few(name):
    order, changes = VARIANTS[name]
    base = {row.name: row.layer for row in trace(model("alexnet"))}
    expected = [(layer, replace(base[layer], **changes.get(layer, {}))) for layer in order]
    assert [(row.name, row.layer) for row in trace(model(name))] == expected


def test_the_papers_text_has_one_rate_for_all():
    schedule = load_config("configs/paper.yaml").optim.schedule
    for epoch, rate in [(1, 0.01), (25, 0.001), (51, 1e-4), (67, 1e-4), (79, 1e-5), (90, 1e-5)]:
        for layer in ("conv1", "fc8"):
            for kind in ("weights", "biases"):
                assert rate_of(schedule, epoch, layer, kind) == rate, (epoch, layer, kind)


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
        "alexnet": ["norm1", "norm2", "map_norm2"],
        "no_norm": [],
        "no_norm2": ["norm1"],
        "paper": ["norm1", "norm2"],
    }


def test_the_papers_text_has_weights_of_001_and_1e_4_times_the_plain_sum():
    rows = trace(model("paper"))
    weights = [row.layer.init for row in rows if isinstance(row.layer, Conv | Linear)]
    assert weights == [0.01] * 8
    x = 300 * torch.rand(2, 9, 4, 4, dtype=torch.float64)
    for row in (row for row in rows if isinstance(row.layer, Lrn)):
        y = layers.build_layer(row, None, Memory())(x)
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
    named = schema.parse_yaml(file.read_text())
    base = named.pop("base")
    ours, theirs = (leaves(schema.plain_tree(read_config(path))) for path in (file, file.parent / base))
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
        ({"mine": {"base": "theirs.yaml"}, "theirs": {"base": "mine.yaml"}}, "or it is based on this"),
        (
            {"mine": {"base": "quick.yaml", "train.bach": 3}},
            "train.bach: unknown key; did you mean train.batch?",
        ),
        ({"mine": {"base": "quick.yaml", "trian.batch": 3}}, "trian: unknown key; did you mean train?"),
        (
            {"mine": {"base": "quick.yaml", "model.stages.9.conv1.out": 3}},
            "there is nothing at model.stages.9",
        ),
        (
            {"mine": {"base": "quick.yaml", "train": {"batch": 3}}},
            "train: replaces a whole section: say train.batch: ...",
        ),
        (
            {"mine": {"base": "quick.yaml", "train.batch": "many"}},
            'train.batch: should be a whole number, not "many"',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_slip_in_a_derived_config_is_one_line_with_file_and_key(files, complaint, tmp_path):
    (tmp_path / "sub").mkdir()
    file = derive(tmp_path, **files)
    with pytest.raises(ValueError) as error:
        load_config(file)
    assert str(error.value).startswith(f"{file}: ") and complaint in str(error.value)
    assert "\n" not in str(error.value)
