"""If these fail, a slip in a config goes unnoticed, or is blamed on the wrong key or file."""

from pathlib import Path

import pytest

from alexnet2gpu.config.load import REPOSITORY, config_text, load_config

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_configs_load_and_what_is_saved_loads_the_same(file, tmp_path):
    config = load_config(file)
    (tmp_path / "config.yaml").write_text(config_text(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_a_relative_path_is_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/quick.yaml") == load_config(REPOSITORY / "configs/quick.yaml")


def test_set_reaches_every_depth():
    config = load_config(
        "configs/quick.yaml",
        [
            "train.max_steps=7",
            "model.stages.0.conv1.bias=1e-5",
            "optim.schedule.1.weights=3e-4",
            "train.precision=float64",
        ],
    )
    assert config.train.max_steps == 7 and config.train.precision == "float64"
    assert config.model.stages[0]["conv1"].bias == 1e-5 and config.optim.schedule[1].weights == 3e-4


@pytest.mark.parametrize(
    "override, complaint",
    [
        ("train.bach=64", "--set train.bach=64: train.bach: unknown key; did you mean train.batch?"),
        ("train.batch=many", '--set train.batch=many: train.batch: should be a whole number, not "many"'),
        ("train.batch=1.5", "train.batch: should be a whole number, not 1.5"),
        ("train.batch=true", "train.batch: should be a whole number, not true"),
        ("train.batch=0", "train.batch: should be a whole number, at least 1, not 0"),
        ("data.flip=1", "data.flip: should be true or false, not 1"),
        ("train.precision=half", 'should be one of float32, bfloat16, float16, float64, not "half"'),
        ("optim.momentum=.nan", "optim.momentum: should be a number"),
        ("data.divide=1" + 400 * "0", "data.divide: should be a number, not 1000"),
        ("data.dir=3", "data.dir: should be text or null, not 3"),
        ("train", "'train' is not of the form key.path=value"),
        ("train.seed.x=1", "train.seed"),
        ("model.stages.9.conv1.out=1", "there is nothing at model.stages.9"),
        ("model.stages.0.conv1.init=big", 'should be a number or one of xavier, not "big"'),
        ("model.stages.0.conv1.type=convolution", "should be one of conv, linear"),
        ("model.stages.0.conv1.colour=3", "model.stages.0.conv1.colour: unknown key"),
        ("model.stages.0.conv1={type: conv}", "model.stages.0.conv1.kernel: is missing"),
        ("model.stages=[]", "model.stages: should be a list of stages"),
        ("model.stages.0.conv1.out=33", "model.stages.0.conv1: 33 outputs do not divide by 2 towers"),
        ("model.towers=5", "configs/quick.yaml: model.stages.0.conv1: 16 outputs do not divide by 5 towers"),
        ("model.stages.1.conv3.kernel=9", "model.stages.1.conv3: a 9x9 window, pad 1, does not fit 6x6 maps"),
        ("model.stages.0.norm1.size=4", "model.stages.0.norm1: size 4 has no middle"),
        ("model.stages.2.relu5={type: relu}", "model.stages.1.relu5: a layer's name"),
        ("model.stages.4.fc8={type: relu}", "model.stages.4.fc8: the last layer should be linear"),
        ("data.crop=20", "data.crop: gives 20x20 images, but model.input is 1x28x28"),
        ("model.stages.0.pool1.pad=2", "model.stages.0.pool1: pad 2 is more than half of the window, 3"),
        ("optim.schedule=[]", "optim.schedule: starts with epoch 1"),
        ("optim.schedule.0.epoch=2", "optim.schedule: starts with epoch 1"),
        ("optim.schedule.0.layers={conv9: {weights: 0}}", "no layer with weights is called conv9"),
        ("train.batch={a: [", "not readable as YAML"),
        ("train.seed=1" + 30 * "0", "train.seed: should be a whole number, not 1000"),
        ("train.seed=0x" + 5000 * "f", "train.seed: should be a whole number, not that many digits"),
    ],
)
def test_a_slip_after_set_is_named(override, complaint):
    with pytest.raises(ValueError) as error:
        load_config("configs/quick.yaml", [override])
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("model: {towers: 1", "not readable as YAML"),
        ("train: {batch: 1}\ntrain: {batch: 2}", "key 'train' is there twice"),
        ("- 1", "should be a section with keys"),
        ("", "should be a section with keys"),
        ("model: !!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("a: &a [*a]", "aliases make more than 131,072 values of it"),
        ("? [1, 2]\n: 3", "not readable as YAML"),
        ("a: !!timestamp 3", "not readable as YAML"),
        ("a: !!bool 3", "not readable as YAML"),
        ("a: 1" + 400 * ":1" + ".5", "not readable as YAML: int too large"),
        ("base: 0x" + 5000 * "f", "limit (4300 digits)"),
        ("a: &a [1, 2]\nb: &b [" + 400 * "*a," + "]\nc: [" + 400 * "*b," + "]", "aliases make more than"),
        ("base: bad.yaml", "base: no file bad.yaml lies beside this one, or it is based on this"),
        ("#" * 2**16 + "\n", "longer than 65,536 characters: not a config"),
    ],
)
def test_a_bad_file_is_named(content, complaint, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ValueError) as error:
        load_config(file)
    assert str(error.value).startswith(f"{file}: ") and complaint in str(error.value)


def test_a_loop_of_links_is_no_base(tmp_path):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "x.yaml").write_text("base: loop.yaml")
    with pytest.raises(ValueError, match="x.yaml: base: no file loop.yaml lies beside this one"):
        load_config(tmp_path / "x.yaml")


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match="--config configs/quik.yaml: there is no such file"):
        load_config("configs/quik.yaml")


def test_a_file_that_is_not_text_is_named(tmp_path):
    file = tmp_path / "binary.yaml"
    file.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match="binary.yaml"):
        load_config(file)


def test_yaml_1_2_numbers_are_numbers(tmp_path):
    text = Path(REPOSITORY / "configs/quick.yaml").read_text().replace("weights: 0.01", "weights: 1e-2")
    (tmp_path / "c.yaml").write_text(text)
    assert load_config(tmp_path / "c.yaml").optim.schedule[0].weights == 0.01


def test_names_that_are_numbers_and_merged_sections_are_understood(tmp_path):
    """`scaling: 2012` without quotes; `<<: *base` from another section."""
    assert load_config("configs/quick.yaml", ["model.stages.2.drop6.scaling=2012"]) == load_config(
        "configs/quick.yaml"
    )
    text = Path(REPOSITORY / "configs/quick.yaml").read_text()
    text = text.replace("relu7: {type: relu}", "relu7: &base {type: relu}\n      relu9: {<<: *base}")
    (tmp_path / "merged.yaml").write_text(text)
    assert "relu9" in load_config(tmp_path / "merged.yaml").model.stages[3]
