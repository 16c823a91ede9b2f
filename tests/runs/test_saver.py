"""If these fail, a checkpoint is damaged, lost or mixed up while it is written."""

import errno
import os
import signal
import threading
import time
from dataclasses import asdict

import pytest
import scenes
import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.data.task import learned_of
from alexnet2gpu.faults import files
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.ranks.assemble import assemble
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.torchrun import grid_of
from alexnet2gpu.runs import writer
from alexnet2gpu.runs.checkpoints import format as checkpoint
from alexnet2gpu.runs.checkpoints import resume, saver, towers
from alexnet2gpu.runs.checkpoints.format import Evaluation, Progress
from alexnet2gpu.runs.checkpoints.saver import Saver
from alexnet2gpu.runs.folder import Run

CONFIG = load_config("configs/quick.yaml", ["data.name=synthetic"])
IMAGES, _ = load_images(CONFIG.data, CONFIG.model)
TASK = learned_of(IMAGES, CONFIG.data).task
ABOUT = {**resume.about(CONFIG, TASK), "versions": {}}
EVALUATED = Evaluation(1, 2.0, 0.5, 0.1)


@pytest.fixture(scope="module")
def network():
    """A model and its optimizer, all towers."""
    with Ranks(Grid(towers=range(2))) as ranks:
        model, _, optimizer = assemble(CONFIG, ranks)
        return model, optimizer


@pytest.fixture
def run(network, tmp_path):
    """A run's directory with the checkpoint of step 9."""
    write(tmp_path, 9, towers.snapshot(*network, range(2)))
    return tmp_path


def write(run, step, contents, attempt="1", **progress):
    state = {"progress": asdict(Progress(step, **progress)), **ABOUT}
    folder = run / "checkpoints"
    saver.write(folder, step, state, contents, attempt, 2, threading.Event())
    return folder / f"step-{step:08d}"


def saver_of(folder, before=lambda: None, tick=lambda: None, grid=Grid(towers=range(2))):
    """And the run that it is of, whose writer does the work."""
    run = Run(folder, True, tick)
    run.checkpoints, run.flush, run.put_back = folder, before, lambda: None
    return run, Saver(run, grid, CONFIG, ABOUT, "1")


def find(run):
    return resume.find_start(run, CONFIG, TASK)


def no_space(*args, **how):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", [9, 10])
def test_a_kill_at_any_byte_leaves_the_one_before(step, run, network):
    """A process of its own writes the next checkpoint, or that of the same step with its
    evaluation, and is killed when so many bytes are on their way."""
    contents = towers.snapshot(*network, range(2))
    total = sum(len(towers.serialised(content)) for content in contents.values())
    before = find(run)
    for at in [0, 1, total // 3, total - 1, total + 100, total + 500]:
        assert written_until(at, run, step, contents) == -signal.SIGKILL
        start = find(run)
        assert (start.checkpoint, start.progress) == (before.checkpoint, before.progress)
    assert written_until(2 * total, run, step, contents) == 0
    assert find(run).progress.step == step and find(run).progress.evaluation == EVALUATED


def written_until(at, run, step, contents):
    """The exit status of a fork that writes a checkpoint and is killed at a byte of it."""
    child = os.fork()
    if child == 0:
        try:
            scenes.die_at_byte(at)
            write(run, step, contents, f"{at:x}", evaluation=EVALUATED)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_that_was_cut_is_found(run, network):
    newest = write(run, 10, towers.snapshot(*network, range(2)))
    for file in newest.iterdir():
        whole = file.read_bytes()
        for cut in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:cut])
            start = find(run)
            assert start.progress.step == 9 and start.damaged == [newest]
        file.write_bytes(whole)
    assert find(run).checkpoint == newest


def test_a_step_that_is_saved_again_keeps_its_towers(run, network):
    """It gets another state only; its towers' bytes might differ, as in another precision."""
    contents = towers.snapshot(*network, range(2))
    other = {name: {"weights": content["weights"]} for name, content in contents.items()}
    place = write(run, 9, other, "2", evaluation=EVALUATED)
    for name, content in contents.items():
        assert (place / name).read_bytes() == towers.serialised(content)
    start = find(run)
    assert start.checkpoint == place and start.progress.evaluation == EVALUATED


def test_a_step_whose_removal_was_begun_can_be_saved(run, network):
    (run / "checkpoints" / "step-00000009" / "state.json").unlink()
    assert write(run, 9, towers.snapshot(*network, range(2))) == find(run).checkpoint


def test_what_is_about_to_be_removed_is_no_checkpoint_any_more(run, network, monkeypatch):
    """A kill in the middle of removing one leaves none that looks whole."""
    write(run, 10, towers.snapshot(*network, range(2)))
    monkeypatch.setattr(type(run), "rmdir", no_space)
    saver.prune(run / "checkpoints", 20, 1, None)
    assert not (run / "checkpoints" / "step-00000009" / "state.json").exists()


def test_a_full_disk_keeps_what_there_was_and_gets_its_place_back(run, network, monkeypatch):
    whole, contents = files.write_whole, towers.snapshot(*network, range(2))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for full in ("tower-0.pt", "tower-1.pt", "state.json"):

        def write_whole(file, *args, **how):
            if file.name == full:
                monkeypatch.setattr(os, "fsync", no_space)
            whole(file, *args, **how)

        for step in (9, 10):
            with monkeypatch.context() as patched:
                patched.setattr(files, "write_whole", write_whole)
                with pytest.raises(OSError, match="No space left on device"):
                    write(run, step, contents, full)
            monkeypatch.undo()
            assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_file_system_that_cannot_flush_folders_will_do(tmp_path, monkeypatch):
    def fails_with(number):
        def fsync(file):
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", fails_with(errno.EINVAL))
    files.flush_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", fails_with(errno.EIO))
    with pytest.raises(OSError):
        files.flush_folder(tmp_path)


def test_a_checkpoint_is_written_in_the_background(network, tmp_path):
    """What is saved is what the towers and the progress were then, not what they became
    meanwhile. A disk that does not answer is told."""
    model, optimizer = network
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    begin, ticks, progress = threading.Event(), [], Progress(step=3)
    run, own = saver_of(tmp_path, lambda: begin.wait(30), lambda: ticks.append(1))
    with run:
        own.save(progress, model, optimizer)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
        progress.step = 4
        time.sleep(0.1)
        assert not list(tmp_path.glob("step-*"))  # the metrics are to be on the disk first
        with pytest.MonkeyPatch.context() as patched, pytest.raises(OSError, match="could be written in 0"):
            patched.setattr(writer, "PATIENCE", 0)
            run.writer.wait()
        begin.set()
        run.writer.wait()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1
    content = towers.read_towers(tmp_path / "step-00000003", CONFIG.model, range(2))["weights"]
    assert all(torch.equal(content[name], weight) for name, weight in before.items()) and ticks


def test_an_error_is_told_before_the_next_is_written(network, tmp_path):
    failures = iter([no_space, lambda: None])
    run, own = saver_of(tmp_path, lambda: next(failures)())
    with run:
        own.save(Progress(step=3), *network)
        with pytest.raises(OSError, match="No space left on device"):
            own.save(Progress(step=4), *network)
    assert not list(tmp_path.iterdir())


def test_after_an_error_no_rank_is_waited_for(network, tmp_path):
    """Rank 0 waits for the tower of a rank that has failed."""
    half = AlexNet(CONFIG.model, placement=[[0]] * 5)
    optimizer = SGD2012(half.named_parameters(), 0.9, 0.0005)
    run, own = saver_of(tmp_path, grid=Grid(world=2, span=2, towers=range(1)))
    with pytest.raises(KeyError), run:
        own.save(Progress(step=3), half, optimizer)
        raise KeyError
    assert not run.writer.jobs.unfinished_tasks and not list(tmp_path.glob("step-*"))


def write_often(folder, rounds):
    """One rank's part of many checkpoints, each step twice; rank 0 is the slower one."""
    with Ranks(grid_of(2, "split"), 1) as ranks:
        model, _, optimizer = assemble(CONFIG, ranks)
        wait = (lambda: time.sleep(0.02)) if ranks.grid.rank == 0 else (lambda: None)
        run, own = saver_of(folder, wait, grid=ranks.grid)
        with run:
            for step in range(rounds):
                for evaluation in (None, EVALUATED):
                    own.save(Progress(step, evaluation=evaluation), model, optimizer)
            run.writer.wait()
        ranks.wait()


def test_ranks_do_not_disturb_each_other_when_they_write(on_ranks, tmp_path):
    """Rank 0 renames a folder as soon as the last file is there, while others may have begun to
    write the next checkpoint, which may be of the same step."""
    on_ranks(write_often, 2, tmp_path, 10)
    newest = checkpoint.newest_checkpoint(tmp_path)
    assert newest.name == "step-00000009" and not list(tmp_path.glob(".step*"))
    assert checkpoint.read_state(newest).progress.evaluation == EVALUATED
