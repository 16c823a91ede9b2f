"""If these fail, a user's mistake ends in a traceback, a hang, a wrong status, or a line too many.

Every mistake is made on one process and on two ranks, in processes that are kept. A few of them,
and all with `pytest --own-processes`, are made in new processes with nobody to meet: a rank that
waited for another would hang. Under torchrun, which kills the slower rank, they are made in
test_launch.py.
"""

import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import REPOSITORY, ended, program, train

PATIENCE = 60  # seconds, for all ranks to be gone


def start(arguments, rank, world, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        environment.pop(name, None)
    if world > 1:
        environment |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(world),
        }
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "launch" / "train.py"), *map(str, arguments)],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outcome(arguments, world, folder):
    """Exit statuses and all that the ranks printed."""
    deadline = time.monotonic() + PATIENCE
    processes = [start(arguments, rank, world, folder) for rank in range(world)]
    try:
        printed = [
            process.communicate(timeout=max(0.1, deadline - time.monotonic()))[0] for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "".join(printed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a finished run and with data that is not what it should be."""
    folder = tmp_path_factory.mktemp("cwd")
    train("--set", "train.max_steps=1", "--set", "data.name=synthetic", "--out", folder / "finished")
    shutil.copytree(folder / "finished", folder / "no_checkpoint")
    shutil.rmtree(folder / "no_checkpoint" / "checkpoints")
    lines = (folder / "finished" / "metrics.jsonl").read_text()
    (folder / "no_checkpoint" / "metrics.jsonl").write_text(lines + lines)  # evaluated twice
    (folder / "broken.yaml").write_text("train: {batch: 1")
    (folder / "empty").mkdir()
    (folder / "garbage").mkdir()
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (folder / "garbage" / name).write_bytes(b"garbage")
    (folder / "pickled").mkdir()
    np.save(folder / "pickled" / "train_images.npy", np.array([print], dtype=object), allow_pickle=True)
    return folder


ANYWHERE = [
    (["--set", "train.bach=64"], "train.bach: unknown key; did you mean train.batch?"),
    (["--set", "train.batch=many"], "train.batch: should be a whole number"),
    (["--set", "train.batch=100000"], "is more than the 6000 training images"),
    (["--set", "model.towers=3"], "do not divide by 3 towers"),
    (["--set", "exchange.precision=half"], "exchange.precision: should be one of bfloat16"),
    (["--set", "exchange.overlap=true", "--set", "memory.regather=true"], "not together with"),
    (
        ["--set", "exchange.overlap=true", "--set", "model.stages.3.fc7=relu"],
        "stages that begin with a linear layer or a convolution",
    ),
    (["--nnodes=2"], "--nnodes=2 is torchrun's: put it before launch/train.py"),
    (["--config", "nowhere.yaml"], "--config nowhere.yaml: there is no such file"),
    (["--config", "broken.yaml"], "broken.yaml: not readable as YAML"),
    (["--data", "nowhere", "--set", "data.name=fashion-mnist"], "there is no such directory"),
    (["--data", "empty", "--set", "data.name=fashion-mnist"], "empty: no train-images-idx3-ubyte"),
    (["--data", "garbage", "--set", "data.name=fashion-mnist"], "not an IDX file"),
    (
        ["--data", "empty", "--set", "data.name=cifar-10", "--set", "model.input=[3, 32, 32]"],
        "no cifar-10-batches-py in it",
    ),
    (["--data", "pickled", "--set", "data.name=arrays"], "train_images.npy: unreadable"),
    (["--resume"], "--out DIR --resume"),
    (["--resume", "--out", "empty"], "there is no run to go on with"),
    (["--resume", "--out", "no_checkpoint"], "its checkpoints are gone"),
    (["--out", "finished"], "holds another run"),
    (["--out", "broken.yaml"], "is not a directory that can be written to"),
    (["--batch", "64"], "unrecognized arguments: --batch 64"),
]
NO_TORCHRUN = (["--ddp"], "--ddp needs several processes: torchrun")
NO_MODE = ([], "2 processes but no mode")
TOO_MANY_IMAGES = (["--ddp", "--set", "train.batch=6002"], "more than the 6000 training images")
ON_ONE = [
    *((arguments, complaint) for arguments, complaint in ANYWHERE),
    (["--split-model"], "--split-model on 1 process: 2 towers divide over 2: torchrun"),
    NO_TORCHRUN,
]
ON_TWO = [
    *((["--split-model", *arguments], complaint) for arguments, complaint in ANYWHERE),
    NO_MODE,
    TOO_MANY_IMAGES,
    (["--ddp", "--set", "train.batch=63"], "train.batch 63 does not divide by 2 replicas"),
    (["--split-model", "--config", "configs/lenet.yaml"], "cannot split a network of 1 tower"),
    (["--split-model", "--set", "model.towers=5"], "do not divide by 5 towers"),
]


def test_a_rank_that_torchrun_ends_meanwhile_still_says_what_is_wrong(folder):
    """SIGTERM again and again, from the start of the check to the last moment of the exit."""
    process = start(["--set", "model.towers=3"], 0, 1, folder)
    time.sleep(0.5)  # Python itself is up by now, torch is not
    while process.poll() is None:
        process.terminate()
        time.sleep(0.01)
    check([process.returncode], process.stdout.read(), "do not divide by 3 towers")


def one_rank(arguments, folder):
    """A rank's part in a process that is kept: its exit status and what it printed."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        return ended("train", *arguments)
    finally:
        os.chdir(before)


def check(statuses, printed, complaint):
    assert set(statuses) == {2}, printed
    assert printed.startswith("error: ") and complaint in printed
    assert printed.count("\n") == 1, printed


def name(part):
    return str(part) if isinstance(part, str | int) else " ".join(part) or "no flags"


@pytest.mark.parametrize("arguments, complaint", ON_ONE, ids=name)
def test_a_mistake_on_one_process(arguments, complaint, folder):
    status, printed = one_rank(arguments, folder)
    check([status], printed, complaint)


@pytest.mark.parametrize("arguments, complaint", ON_TWO, ids=name)
def test_a_mistake_on_two_ranks(on_ranks, arguments, complaint, folder):
    answers = on_ranks(one_rank, 2, arguments, folder)
    check([status for status, _ in answers], "".join(printed for _, printed in answers), complaint)


def pytest_generate_tests(metafunc):
    if "world" in metafunc.fixturenames:
        few = [NO_TORCHRUN, NO_MODE, TOO_MANY_IMAGES]
        cases = [
            (*case, world)
            for cases, world in ((ON_ONE, 1), (ON_TWO, 2))
            for case in cases
            if case in few or metafunc.config.getoption("--own-processes")
        ]
        metafunc.parametrize("arguments, complaint, world", cases, ids=name)


@pytest.mark.slow
def test_a_mistake_in_processes_of_its_own(arguments, complaint, world, folder):
    check(*outcome(arguments, world, folder), complaint)


def test_main_in_a_thread_is_told_in_one_line(capfd):
    """Where signals cannot be handled."""
    ends = []

    def call():
        with pytest.raises(SystemExit) as end:
            program("train").main([])
        ends.append(end.value.code)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    said, (status,) = capfd.readouterr().err, ends
    assert status == 2
    assert said.startswith("error: main() was called in a thread") and said.count("\n") == 1


def test_the_number_that_an_old_launcher_passes_is_no_mistake(folder, monkeypatch):
    """python -m torch.distributed.launch has --local-rank=0 for every program."""
    monkeypatch.chdir(folder)
    status, printed = ended("train", "--local-rank=0", "--set", "train.bach=1")
    assert status == 2 and "train.bach: unknown key" in printed
