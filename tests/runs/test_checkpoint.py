"""If these fail, a resumed run is not the one that was interrupted."""

import errno
import fcntl
import json
import shutil
import zipfile
from dataclasses import replace

import pytest
import torch
from conftest import first, metrics, train

import alexnet2gpu
from alexnet2gpu.config import schema
from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.data.task import learned_of
from alexnet2gpu.faults import files
from alexnet2gpu.ranks.names import FLAGS
from alexnet2gpu.runs.checkpoints import format as checkpoint
from alexnet2gpu.runs.checkpoints import resume
from alexnet2gpu.runs.checkpoints.format import Evaluation, Progress
from alexnet2gpu.runs.folder import Run

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
    run = folder if (folder / "config.yaml").exists() else folder.parents[1]
    return alexnet2gpu.load(run / "config.yaml", folder).state_dict()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Nine steps on one device: three modes of three steps each must come to the same."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    train(*upto(9), "--out", folder)
    return folder


@pytest.mark.parametrize(
    "order",
    first(
        2,
        ["split hybrid ddp", "hybrid single split", "single split grid", "ddp grid split", "grid single ddp"],
    ),
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
            on_ranks(train, 4 if mode == "grid" else 2, *FLAGS[mode].split(), *arguments)
    expected, found = metrics(unbroken, "loss"), metrics(out, "loss")
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-11)
    for name, weight in weights(unbroken).items():
        torch.testing.assert_close(weights(out)[name], weight, rtol=1e-6, atol=1e-9)  # float32, when loaded


def test_the_same_mode_resumes_bit_for_bit_with_dropout(tmp_path):
    options = ["--set", "data.name=synthetic", "--set", "train.batch=16", "--set", "train.log_every=1"]
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
    but tensors. The state has the rest: place, best, config, versions, checksums."""
    newest = checkpoint.newest_checkpoint(unbroken)
    there = sorted(file.name for file in newest.iterdir())
    assert there == ["mean.npy", "state.json", "tower-0.pt", "tower-1.pt"]
    for index in (0, 1):
        content = torch.load(newest / f"tower-{index}.pt", weights_only=True)
        assert set(content) == {"weights", "velocity"} and set(content["weights"]) == set(content["velocity"])
        assert all(name.startswith(f"towers.{index}.") for name in content["weights"])
    state = json.loads((newest / "state.json").read_text())
    top1 = metrics(unbroken, "top1_error")[9]
    assert state["progress"]["step"] == 9 and state["progress"]["evaluation"]["top1_error"] == top1
    assert state["progress"]["best"] == {"step": 9, "top1_error": top1}
    assert schema.build_section(Config, state["config"]) == load_config(unbroken / "config.yaml")
    assert state["versions"]["torch"] == torch.__version__
    assert state["towers"]["tower-1.pt"] == files.checksum_of(newest / "tower-1.pt")


def names(folder):
    return sorted(place.name for place in (folder / "checkpoints").glob("step-*"))


def test_the_newest_are_kept_and_the_best(tmp_path):
    """Of four evaluations the second is made the best; its checkpoint outlives newer ones."""
    out = tmp_path / "run"
    for last in (1, 2, 3, 4):
        train(*upto(last), "--out", out, *["--resume"] * (last > 1))
        if last == 2:
            newest = checkpoint.newest_checkpoint(out)
            state = files.read_sealed(newest / "state.json")
            state["progress"]["best"] = {"step": 2, "top1_error": -1.0}
            (newest / "state.json").write_bytes(files.seal(state))
    assert names(out) == ["step-00000002", "step-00000003", "step-00000004"]
    assert (out / "checkpoints" / "best").resolve().name == "step-00000002"
    assert weights(out / "checkpoints" / "best").keys()


def test_unfinished_ones_do_not_count_and_are_removed(unbroken, tmp_path):
    folder = shutil.copytree(unbroken, tmp_path / "run", symlinks=True)
    (folder / "checkpoints" / ".step-00000099.1a.partial").mkdir()
    (folder / "checkpoints" / "step-00000010").mkdir()  # no state.json: it was lost
    (folder / "checkpoints" / "step-00000004").mkdir()  # it was being removed
    train(*upto(10), "--out", folder, "--resume")
    assert not list(folder.glob("checkpoints/.step*"))
    assert list(metrics(folder, "loss")) == list(range(1, 11))
    assert names(folder) == ["step-00000009", "step-00000010"]


def test_a_run_that_another_process_went_on_with_is_left_alone(unbroken, tmp_path, capsys):
    """It was still saving when this one chose its checkpoint, and let go of the lock then."""
    folder = shutil.copytree(unbroken, tmp_path / "run", symlinks=True)
    start = find(folder)
    shutil.copytree(folder / "checkpoints" / "step-00000009", folder / "checkpoints" / "step-00000012")
    with Run(folder, True) as files_, pytest.raises(ValueError, match="resume again"):
        files_.start(load_config(folder / "config.yaml"), start.progress, start.damaged)


def damage(place, how):
    tower, state = place / "tower-1.pt", place / "state.json"
    if how == "missing tower":
        tower.unlink()
    elif how == "cut":
        tower.write_bytes(tower.read_bytes()[:5000])
    elif how == "one bit":
        content = bytearray(tower.read_bytes())
        content[len(content) // 2] ^= 4
        tower.write_bytes(content)
    elif how == "not a checkpoint":
        torch.save([1, 2], tower)
    elif how == "wrong tower":
        shutil.copy(place / "tower-0.pt", tower)
    elif how == "code":
        torch.save({"weights": json.loads, "velocity": {}}, tower)
    elif how == "state":
        state.write_text("{")
    elif how == "another step":
        state.write_text(state.read_text().replace('"step": 10', '"step": 11'))


HOW = ["missing tower", "cut", "one bit", "not a checkpoint", "wrong tower", "code", "state", "another step"]


@pytest.fixture(scope="module")
def longer(unbroken, tmp_path_factory):
    """A step more: two checkpoints."""
    folder = shutil.copytree(unbroken, tmp_path_factory.mktemp("longer") / "run", symlinks=True)
    train(*upto(10), "--out", folder, "--resume")
    return folder


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_is_taken(how, longer, tmp_path, capfd):
    """It is said why, the curve comes out as if nothing had happened, and nothing is deleted."""
    folder = shutil.copytree(longer, tmp_path / "run", symlinks=True)
    expected = metrics(folder, "loss")
    damage(folder / "checkpoints" / "step-00000010", how)
    capfd.readouterr()
    train(*upto(10), "--out", folder, "--resume")
    said = capfd.readouterr().out
    file = "state.json" if how in ("state", "another step") else "tower-1.pt"
    assert f"passed over {folder}/checkpoints/step-00000010: {file}: " in said
    assert f"going on from {folder}/checkpoints/step-00000009" in said
    assert metrics(folder, "loss") == expected
    assert len(list(folder.glob("checkpoints/damaged-step-00000010-*"))) == 1


def test_a_system_that_opens_nothing_damages_no_checkpoint(longer, monkeypatch):
    """As one without descriptors, or without the right to read: none is passed over."""

    def fails(path, flags):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(files, "regular", fails)
    with pytest.raises(OSError, match="Too many open files: .*state.json"):
        find(longer)


@pytest.mark.parametrize("times", [1, 2])
def test_a_disk_that_fails_for_a_moment_damages_no_checkpoint(times, longer, monkeypatch):
    """What cannot be read is read once more."""
    regular, left = files.regular, times

    def fails(path, flags):
        nonlocal left
        if "step-00000010/tower-1.pt" in str(path) and left:
            left -= 1
            raise OSError(errno.EIO, "Input/output error", str(path))
        return regular(path, flags)

    monkeypatch.setattr(files, "regular", fails)
    assert find(longer).progress.step == (10 if times == 1 else 9)


@pytest.mark.parametrize("how", ["cut", "state"])
def test_if_all_are_damaged_the_run_stays_as_it_is(how, unbroken, tmp_path, capsys):
    folder = shutil.copytree(unbroken, tmp_path / "run", symlinks=True)
    damage(folder / "checkpoints" / "step-00000009", how)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit) as exit_:
        train(*upto(12), "--out", folder, "--resume")
    message = capsys.readouterr().err
    assert exit_.value.code == 2 and message.count("\n") == 1
    assert message.startswith("error: no checkpoint is whole: passed over ")
    after = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert after == before


def test_a_checkpoint_that_others_wrote_is_an_error_though_its_checksums_are_right(unbroken, tmp_path):
    """Another format is not damage: an older checkpoint must not be taken in silence. What is no
    tensor of this network is refused, whoever sealed it."""
    folder = shutil.copytree(unbroken, tmp_path / "run", symlinks=True)
    newest = checkpoint.newest_checkpoint(folder)
    state = files.read_sealed(newest / "state.json")
    (newest / "state.json").write_bytes(files.seal({**state, "format": 4}))
    with pytest.raises(ValueError, match="is of format 4, this program reads 3"):
        find(folder)
    content = torch.load(newest / "tower-1.pt")
    for name, other in {
        "cut code": {},
        "bomb": content,
        "code": {"weights": print, "velocity": {}},
        "whole numbers": {**content, "velocity": {n: t.int() for n, t in content["velocity"].items()}},
        "no numbers": {**content, "weights": {n: t * torch.nan for n, t in content["weights"].items()}},
        "no data": {**content, "weights": {n: t.to("meta") for n, t in content["weights"].items()}},
        "another shape": {**content, "weights": {n: t[:1] for n, t in content["weights"].items()}},
    }.items():
        torch.save(other, newest / "tower-1.pt")
        if name == "cut code":  # which ends in the middle of a number
            (newest / "tower-1.pt").write_bytes(b"\x80\x02J\x01")
        if name == "bomb":
            with zipfile.ZipFile(newest / "tower-1.pt", "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("archive/data/more", bytes(2**24))
        sums = {**state["towers"], "tower-1.pt": files.checksum_of(newest / "tower-1.pt")}
        (newest / "state.json").write_bytes(files.seal({**state, "towers": sums}))
        with pytest.raises(ValueError, match="tower-1.pt: unreadable checkpoint"):
            weights(folder)
            pytest.fail(name)


def find(folder, *changes, images=None):
    config = load_config(folder / "config.yaml", changes)
    images = images or load_images(config.data, config.model)[0]
    return resume.find_start(folder, config, learned_of(images, config.data).task)


@pytest.mark.parametrize(
    "change",
    [
        "train.batch=32",
        "train.seed=1",
        "model.stages.0.conv1.init=0.5",
        "model.towers=4",
        "data.name=fashion-mnist-sample",
    ],
)
def test_a_run_goes_on_only_as_what_it_was(unbroken, change):
    changes = [change, *["model.stages.4.fc8.out=12"] * ("towers" in change)]
    with pytest.raises(ValueError, match="is of another run"):
        find(unbroken, *changes)


def test_what_may_be_changed_is_said(unbroken):
    """An edited config.yaml is no mistake, but nothing of it is taken in silence."""
    start = find(unbroken, "optim.weight_decay=0.1", "train.epochs=16")
    assert start.progress.step == 9
    assert "optim.weight_decay is 0.1, was 0.0005" in start.remarks
    assert "train.epochs is 16, was 15" in start.remarks


def test_other_versions_and_lost_metrics_are_said(unbroken, tmp_path):
    """Another kernel gives other bits; a log that is gone is no more than that."""
    folder = shutil.copytree(unbroken, tmp_path / "run", symlinks=True)
    (folder / "metrics.jsonl").unlink()
    start = find(folder)
    assert f"{folder / 'metrics.jsonl'} is gone, and with it what was logged before" in start.remarks
    now = {**start.versions, "kernels": "cpu, operations of torch", "new": "of no older checkpoint"}
    assert start.versions["kernels"].startswith("cpu, ")
    before = {**start.versions, "kernels": "cpu, own kernels"}
    assert resume.changed_versions(before, before) == []
    said = "kernels: cpu, operations of torch, was cpu, own kernels: bits may differ"
    assert resume.changed_versions(before, now) == [said]


def test_a_checkpoint_under_another_name_is_passed_over(longer, tmp_path, capfd):
    """A copy, which is set aside, and hides no other."""
    run = shutil.copytree(longer, tmp_path / "run", symlinks=True)
    shutil.copytree(run / "checkpoints" / "step-00000010", run / "checkpoints" / "step-00000900")
    train(*upto(11), "--out", run, "--resume")
    said = capfd.readouterr().out
    assert "step-00000900: it is of step 10, and was renamed or copied" in said, said
    assert "going on from" in said and (run / "checkpoints" / "step-00000011").is_dir()
    assert len(list(run.glob("checkpoints/damaged-step-00000900-*"))) == 1


def test_a_state_of_other_types_is_passed_over(longer, tmp_path):
    """Though it is sealed: whoever has sealed it."""
    folder = shutil.copytree(longer, tmp_path / "run", symlinks=True)
    file = folder / "checkpoints" / "step-00000010" / "state.json"
    state = files.read_sealed(file)
    wrong = [("progress", {**state["progress"], "best": {"top1_error": 1}}), ("towers", [1]), ("config", 7)]
    for key, value in wrong:
        file.write_bytes(files.seal({**state, key: value}))
        start = find(folder)
        assert start.progress.step == 9 and f": state.json.{key}" in start.remarks[0]


def test_a_run_goes_on_only_with_its_labels(unbroken):
    """As many images, but a class was renamed, say, and all numbers have changed."""
    config = load_config(unbroken / "config.yaml")
    images, _ = load_images(config.data, config.model)
    other = replace(images, labels=images.labels[::-1].copy())
    with pytest.raises(ValueError, match="training images have other labels"):
        find(unbroken, images=other)


def test_a_run_that_was_ended_before_its_first_checkpoint_starts_again(unbroken, tmp_path):
    """But one whose checkpoints somebody deleted does not: its metrics would be lost."""
    out = shutil.copytree(unbroken, tmp_path / "run", symlinks=True)
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(ValueError, match="checkpoints are gone"):
        find(out)
    (out / "run.json").unlink()
    train(*upto(9), "--out", out, "--resume")
    assert metrics(out, "loss") == metrics(unbroken, "loss")


def test_two_processes_do_not_write_one_run(unbroken, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(unbroken, tmp_path / "run", symlinks=True)
    monkeypatch.setattr("alexnet2gpu.runs.folder.RUN_PATIENCE", 0)
    with open(folder / "lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as exit_:
            train(*upto(10), "--out", folder, "--resume")
    assert exit_.value.code == 2
    assert "another process is training there" in capsys.readouterr().err
    assert names(folder) == ["step-00000009"]


EVALUATED = {"epoch": 1, "test_loss": 2.0, "top1_error": 0.5, "top5_error": 0.1}


@pytest.mark.parametrize("evaluation, lines", [(EVALUATED, 1), (EVALUATED, 0), (None, 1)])
def test_an_evaluation_has_one_line(unbroken, tmp_path, evaluation, lines):
    """The process may have died between its logging and its saving, or the other way round."""
    config = load_config(unbroken / "config.yaml")
    logged = json.dumps({"step": 9, **EVALUATED}) + "\n"
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "loss": 1.0}\n' + logged * lines)
    with Run(tmp_path, True) as own:
        own.start(config, Progress(9, evaluation=evaluation and Evaluation(**evaluation)), [])
    found = metrics(tmp_path, "top1_error")
    assert found == ({9: 0.5} if evaluation else {}) and metrics(tmp_path, "loss") == {9: 1.0}
    assert (tmp_path / "metrics.jsonl").read_text().count("top1") == len(found)


def test_a_run_without_its_config_is_a_run(unbroken, tmp_path, capsys):
    """It is not trained over, and goes on if it is told its config."""
    folder = shutil.copytree(unbroken, tmp_path / "run", symlinks=True)
    (folder / "config.yaml").rename(tmp_path / "config.yaml")
    for arguments, complaint in (([], "holds another run"), (["--resume"], "config.yaml")):
        with pytest.raises(SystemExit) as exit_:
            train("--out", folder, *arguments)
        assert exit_.value.code == 2 and complaint in capsys.readouterr().err
    train("--out", folder, "--resume", "--config", tmp_path / "config.yaml")
    assert names(folder) == ["step-00000009"]


def test_load_reads_a_checkpoint_or_draws(unbroken):
    network = alexnet2gpu.load(unbroken / "config.yaml")
    assert not torch.equal(
        network.state_dict()["towers.0.conv1.weight"], weights(unbroken)["towers.0.conv1.weight"]
    )
    with pytest.raises(ValueError, match="no checkpoint"):
        alexnet2gpu.load("configs/quick.yaml", "configs")
