"""If these fail, a run loses what somebody deletes by mistake, or touches what is not its own."""

import os
import shutil
from datetime import timedelta

import pytest
import torch.distributed as dist
from conftest import ended, metrics, train

from alexnet2gpu.config.load import load_config
from alexnet2gpu.runs import loop, out
from alexnet2gpu.runs.checkpoints.format import Best, Progress, checkpoints_of, newest_checkpoint
from alexnet2gpu.runs.checkpoints.saver import prune
from alexnet2gpu.runs.folder import Run
from alexnet2gpu.runs.metrics import read_metrics
from alexnet2gpu.runs.out import RUNS, begun_before

CONFIG = load_config("configs/quick.yaml", ["data.name=synthetic"])
SETTINGS = ["data.name=synthetic", "train.batch=128", "train.epochs=2", "train.log_every=1"]
OPTIONS = [part for setting in SETTINGS for part in ("--set", setting)]  # 2 epochs of 4 steps


def contents(place):
    return {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()}


def started(place):
    own = Run(place, True)
    own.start(CONFIG, Progress(), [], "a word")
    own.log(step=1, loss=2.5)
    own.writer.wait()
    return own


@pytest.mark.parametrize("how", ["emptied", "deleted", "moved", "one file"])
def test_what_is_deleted_in_mid_run_is_put_back(how, tmp_path, capsys):
    place = tmp_path / "run"
    with started(place) as own:
        before = contents(place)
        assert not own.is_missing()
        if how == "moved":
            place.rename(tmp_path / "elsewhere")
        elif how == "one file":
            (place / "metrics.jsonl").unlink()
        else:
            shutil.rmtree(place)
            if how == "emptied":
                place.mkdir()
        assert own.is_missing()
        own.put_back()
        assert contents(place) == before and not own.is_missing()
        assert "what was deleted there, or moved away, is put back" in capsys.readouterr().out
        own.log(step=2, loss=2.25)
        own.writer.wait()
    assert metrics(place, "loss") == {1: 2.5, 2: 2.25}


def test_another_run_in_the_place_of_one_that_was_moved_is_left_alone(tmp_path):
    place, other = tmp_path / "run", tmp_path / "other"
    with started(other):
        checkpoint(other / "checkpoints" / "step-00000003", "theirs")
    with started(place) as own:
        place.rename(tmp_path / "elsewhere")
        other.rename(place)
        before = contents(place)
        with pytest.raises(ValueError, match="another run lies there now: go on with this one"):
            own.put_back()
    assert contents(place) == before and (place / "checkpoints" / "step-00000003" / "state.json").exists()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "memory.json", "run.json"])
def test_a_directory_with_a_file_of_a_run_is_no_new_one(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="holds another run: give another directory"):
        out.check_folder(str(tmp_path), resume=False)
    (tmp_path / name).write_text("")  # of a run that was ended at once
    assert out.check_folder(str(tmp_path), resume=False) == tmp_path


def test_a_name_that_is_not_of_utf_8_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="not of UTF-8"):
        out.check_folder(str(tmp_path / os.fsdecode(b"\xff")), resume=False)


def test_where_nothing_is_deleted_nothing_is_put_back(tmp_path, capsys):
    """Of three checkpoints, one of a step that is saved twice."""
    train(*OPTIONS, "--set", "train.save_minutes=0", "--set", "train.max_steps=2", "--out", tmp_path / "run")
    assert "put back" not in capsys.readouterr().out
    assert (tmp_path / "run" / "memory.json").exists()


@pytest.mark.parametrize("step", [5, 8])
@pytest.mark.slow
def test_a_run_whose_directory_is_emptied_ends_whole(step, tmp_path, monkeypatch):
    """In the middle; and after its last step, when nothing is left to be saved but what was deleted."""
    train(*OPTIONS, "--out", tmp_path / "unbroken")
    own, wait = loop.train_step, loop.Loop.evaluate_epoch
    steps = 0

    def deleted(*args):
        nonlocal steps
        steps += 1
        if steps == step == 5:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)  # while it may be written
        return own(*args)

    def evaluated(self):
        wait(self)
        if self.progress.step == step == 8:
            self.run.writer.wait()
            shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(loop, "train_step", deleted)
    monkeypatch.setattr(loop.Loop, "evaluate_epoch", evaluated)
    train(*OPTIONS, "--out", tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run").name == "step-00000008"
    for key in ("loss", "top1_error"):
        assert metrics(tmp_path / "run", key) == metrics(tmp_path / "unbroken", key)
    assert (tmp_path / "run" / "memory.json").exists()
    train("--out", tmp_path / "run", "--resume")


def test_of_processes_that_start_at_once_each_has_its_own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: False if "runs" in str(path) else exists(path))
    taken = [out.take_folder("quick-single") for _ in range(3)]  # each as if it had looked before the others
    assert [place.name for place in taken] == ["quick-single", "quick-single-2", "quick-single-3"]
    assert all(place.is_dir() for place in taken)


def checkpoint(place, content="{}"):
    place.mkdir(parents=True)
    (place / "state.json").write_text(content)
    return place


def test_only_checkpoints_are_removed_and_no_link_is_followed(tmp_path):
    """A copy with a name of its own stays; of another run's checkpoint the link goes."""
    theirs = checkpoint(tmp_path / "theirs" / "step-00000002", "theirs")
    own = tmp_path / "own"
    for name in ("step-00000001", "step-00000001-notes", "step-00000009.bak", "step-000000009", "step-9"):
        checkpoint(own / name)
    (own / "step-00000002").symlink_to(theirs)
    for step in (3, 4):
        checkpoint(own / f"step-{step:08d}")
    assert [place.name[-1] for place in checkpoints_of(own)] == list("1234")
    prune(own, 4, 1, Best(3, 0.5))
    assert [place.name[-1] for place in checkpoints_of(own)] == list("34")
    assert (theirs / "state.json").read_text() == "theirs"
    assert sorted(place.name for place in own.iterdir() if place.name[-1] not in "34") == [
        *("best", "step-000000009", "step-00000001-notes", "step-00000009.bak", "step-9")
    ]


def test_what_is_not_of_a_checkpoint_stays(tmp_path):
    """Somebody's notes in one, and copies of one beyond the step that was done, which take no place."""
    for step in (1, 2, 3, 90):
        checkpoint(tmp_path / f"step-{step:08d}")
        (tmp_path / f"step-{step:08d}" / "tower-0.pt").touch()
    (tmp_path / "step-00000001" / "notes.txt").touch()
    prune(tmp_path, 3, 1, None)
    left = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*"))
    whole = [f"step-000000{step}/{name}" for step in ("03", "90") for name in ("state.json", "tower-0.pt")]
    assert left == ["step-00000001/notes.txt", *whole]


def test_checkpoints_are_in_order_of_their_steps(tmp_path):
    for step in (100_000_000, 99_999_999):
        checkpoint(tmp_path / f"step-{step:08d}")
    assert newest_checkpoint(tmp_path).name == "step-100000000"


@pytest.mark.parametrize("name", ["lock", "metrics.jsonl", ".config.yaml.new", ".metrics.jsonl.new"])
def test_no_link_is_followed_to_write(name, tmp_path):
    target, place = tmp_path / "target", tmp_path / "run"
    target.write_text("not ours\n")
    place.mkdir()
    (place / name).symlink_to(target)
    status, said = ended("train", *OPTIONS, "--set", "train.max_steps=1", "--out", place)
    assert target.read_text() == "not ours\n"
    why = {"lock": "is a link, and none is followed to write", "metrics.jsonl": "holds another run"}
    assert status == 2 * (name in why) and why.get(name, "") in said, said


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    train(*OPTIONS, "--set", "train.max_steps=1", "--out", tmp_path / "run")
    newest = newest_checkpoint(tmp_path / "run")
    for file in (tmp_path / "run" / "metrics.jsonl", newest / "tower-0.pt"):
        file.unlink()
        os.mkfifo(file)
        status, said = ended("train", "--out", tmp_path / "run", "--resume")
        assert status == 2 and file.name in said and "is not a regular file" in said, said


def test_a_start_leaves_its_word(tmp_path):
    with started(tmp_path / "run") as own:
        own.check_seen("a word")
    assert (tmp_path / "run" / "lock").read_text() == "a word"
    assert list(read_metrics(tmp_path / "nothing")) == []


def test_lines_that_are_not_whole_are_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert list(read_metrics(file)) == []
    odd = b'{"step": 1}\n[]\n{"loss": 1}\n{"step": 1, "loss": 1' + b"0" * 400 + b"}\n\xff\xfe\n"
    odd += b"[" * 10**5 + b'\n{"step": 2}\n{"step": 3'
    file.write_bytes(odd)
    assert list(read_metrics(file)) == [{"step": 1}, {"step": 2}]


def test_a_restart_finds_the_run_that_it_has_begun(tmp_path, monkeypatch):
    """And not that of another torchrun which has the same store, nor one whose config is gone."""
    monkeypatch.chdir(tmp_path)
    config = load_config("configs/quick.yaml")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    for run_id, name in (("mine", "quick-split"), ("another", "quick-split-2")):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        with Run(RUNS / name, True) as own:
            own.start(config, Progress(), [])
        assert begun_before() is None  # the first start
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert begun_before() == RUNS / "quick-split-2"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert begun_before() == RUNS / "quick-split"
    (RUNS / "quick-split" / "config.yaml").unlink()
    assert begun_before() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a third")
    assert begun_before() is None
    monkeypatch.setenv("MASTER_PORT", "1")  # where nobody answers
    monkeypatch.setattr("alexnet2gpu.ranks.store.STORE_PATIENCE", timedelta(seconds=1))
    with pytest.raises(ValueError, match="torchrun's store does not say .*--out DIR --resume"):
        begun_before()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    with pytest.raises(ValueError, match="rank 0 had it, and is gone"):
        begun_before()


def test_ranks_notice_that_they_do_not_share_a_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet2gpu.runs.folder.RUN_PATIENCE", 0)
    own = Run(tmp_path / "not here", False)
    for word in ("", "of an earlier start"):  # a copy of the run has that
        with pytest.raises(ValueError, match="not here: is not the directory that rank 0 sees"):
            own.check_seen("of this start")
        own.folder.mkdir(exist_ok=True)
        (own.folder / "lock").write_text(word)
    (own.folder / "lock").write_text("of this start")
    own.check_seen("of this start")


def test_tensorboard_shows_the_figures_of_the_metrics(tmp_path):
    """Once each, though the run was stopped after a checkpoint and went on."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = ["data.name=synthetic", "train.batch=16", "train.log_every=1", "train.log=tensorboard"]
    settings = [part for setting in settings for part in ("--set", setting)]
    train(*settings, "--set", "train.max_steps=2", "--out", tmp_path / "run")
    train("--out", tmp_path / "run", "--resume", "--set", "train.max_steps=4")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in ("loss", "top1_error"):
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert shown == pytest.approx(metrics(tmp_path / "run", name)) and len(events.Scalars(name)) == len(
            shown
        )


def test_without_tensorboard_it_is_told_before_the_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit_:
        train("--set", "train.log=tensorboard", "--out", tmp_path / "run")
    assert exit_.value.code == 2 and "pip install -e '.[tensorboard]'" in capsys.readouterr().err
