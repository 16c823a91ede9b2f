"""If these fail, a rank that dies, hangs or fails leaves others waiting, or a run loses what it had.

What it takes is done to real processes where that is what matters; bench/faults does it a hundred
times over.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from conftest import REPOSITORY, first, metrics, train

from alexnet2gpu.faults import files
from alexnet2gpu.faults.processes import alive
from alexnet2gpu.faults.signals import Stop
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.torchrun import grid_of
from bench.faults import fuzz
from bench.faults.victim import children

SHORT = ["data.name=synthetic", "train.batch=128", "train.epochs=3", "train.log_every=3"]
OPTIONS = [part for change in SHORT for part in ("--set", change)]  # 3 epochs of 4 steps
PATIENCE = 60


def wait_until(condition, process=None):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.02)


def has_saved(folder):
    return bool(list(folder.glob("runs/*/checkpoints/step-*/state.json")))


def torchrun(folder, *arguments, restarts=0):
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        f"--max-restarts={restarts}",
        REPOSITORY / "launch" / "train.py",
    ]
    return subprocess.Popen(
        [*map(str, launch), "--split-model", *map(str, arguments)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds ranks through /proc")
@pytest.mark.slow
def test_a_run_survives_its_launcher_and_a_rank(on_ranks, tmp_path):
    """torchrun is killed: its ranks end. The run is resumed, a rank is killed: the other says so,
    torchrun starts both again, and they go on by themselves. The curve is that of a run to which
    nothing happened, bit for bit."""
    on_ranks(train, 2, "--split-model", *OPTIONS, "--out", tmp_path / "unbroken")
    first = torchrun(tmp_path, *OPTIONS, "--set", "train.epochs=60")
    wait_until(lambda: has_saved(tmp_path), first)
    ranks = children(first.pid)
    first.kill()
    wait_until(lambda: not any(map(alive, ranks)))
    assert "torchrun is gone, so this rank ends too" in first.communicate()[1]

    out = tmp_path / "runs" / "quick-split"
    second = torchrun(tmp_path, "--out", out, "--resume", "--set", "train.epochs=60", restarts=1)
    before = len(metrics(out, "loss"))
    wait_until(lambda: len(metrics(out, "loss")) > before + 1, second)
    victim = children(second.pid)[1]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(metrics(out, "loss")) > before + 4, second)
    second.terminate()  # torchrun passes it on: saved, and stopped
    said, wrong = second.communicate(timeout=PATIENCE)
    assert f"(pid {victim} on " in wrong and "was killed or has crashed" in wrong
    assert wrong.count("error: rank") == 1, wrong
    assert "stopped after step" in said and said.count("going on from") == 2
    expected, found = metrics(tmp_path / "unbroken", "loss"), metrics(out, "loss")
    assert len(found) > len(expected) and found.items() >= expected.items()


RANK = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
import conftest
from alexnet2gpu.faults import watch
from alexnet2gpu.runs import loop
watch.SILENT, watch.STUCK, watch.START = 3.0, {stuck}, {stuck}
step, steps = loop.train_step, 0
def fault(*args):
    global steps
    steps += 1
    if steps == 3 and os.environ["RANK"] == "1":
        {fault}
    return step(*args)
loop.train_step = fault
conftest.train("--split-model", *{options!r}, "--out", {out!r})
"""
FAULTS = {
    "dies": ("os.kill(os.getpid(), signal.SIGKILL)", 1, "was killed or has crashed"),
    "raises": ("raise RuntimeError('a bug')", 1, "rank 1: RuntimeError: a bug"),
    "cannot read": (
        "raise OSError(5, 'Input/output error', 'train.u8')",
        2,
        "rank 1: after step 2: [Errno 5] Input/output error: 'train.u8': mend it",
    ),
    "is stopped": ("os.kill(os.getpid(), signal.SIGSTOP)", 1, "has not answered for 3 s: stopped"),
    "hangs": ("time.sleep(100)", 1, "no step was done in 10 s: rank 0 is at link.py:"),
}


@pytest.mark.parametrize("what", first(1, FAULTS))
def test_a_rank_that(what, tmp_path):
    """... ends the other, with one message that says which rank it was and why. Without torchrun,
    which ends the others only where it sees that one has ended."""
    fault, status, message = FAULTS[what]
    code = RANK.format(
        tests=str(REPOSITORY / "tests"),
        fault=fault,
        options=OPTIONS,
        out=str(tmp_path / "run"),
        stuck=10 if what == "hangs" else 60,
    )
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [start(code, rank, 2, store.port) for rank in (0, 1)]
    try:
        said = ranks[0].communicate(timeout=PATIENCE)[0]
        if what in ("is stopped", "hangs"):
            ranks[1].send_signal(signal.SIGCONT)
        said += ranks[1].communicate(timeout=PATIENCE)[0]
    finally:
        for rank in ranks:
            rank.kill()
    assert said.count("\nerror: ") == 1 and message in said, said
    assert said.count("Traceback") == (what == "raises")  # a bug has one, and it is shown
    assert ranks[0].returncode == status
    assert ranks[1].returncode == (-signal.SIGKILL if what == "dies" else status)


def start(code, rank, world, port, **more):
    environment = {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
        **more,
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_a_mistake_on_one_machine_ends_ranks_on_others_that_wait_for_it(tmp_path):
    """Each rank stands for a machine; the second has no photographs."""
    (tmp_path / "empty").mkdir()
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tests')!r}); import conftest; "
    code += "conftest.train('--split-model', '--out', {!r}, *{!r})"
    wrong = ["--data", str(tmp_path / "empty"), "--set", "data.name=fashion-mnist"]
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    machine = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    ranks = [
        start(code.format(str(tmp_path / "run"), more), rank, 2, store.port, **machine)
        for rank, more in enumerate([OPTIONS, wrong])
    ]
    said = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], said
    assert "error (rank 1): --data" in said[1] and "error" not in said[0]


def until_stopped(number, *arguments):
    """Train; rank 1, or the only one, gets a signal at its fifth step. Returns: exit status."""
    from alexnet2gpu.runs import loop

    step, steps = loop.train_step, 0

    def signalled(*args):
        nonlocal steps
        steps += 1
        if steps == 5 and os.environ.get("RANK", "1") == "1":
            signal.raise_signal(number)
            signal.raise_signal(number)  # torchrun and the scheduler both send it
        return step(*args)

    loop.train_step = signalled
    handlers = [(n, signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
        train(*arguments)
    except SystemExit as exit_:
        return exit_.code
    finally:
        loop.train_step = step
        for handler in handlers:
            signal.signal(*handler)


@pytest.mark.parametrize(
    "number, ranks",
    first(
        1,
        [
            (signal.SIGTERM, 2),
            (signal.SIGTERM, 1),
            (signal.SIGINT, 1),
            (signal.SIGHUP, 1),
            (signal.SIGUSR1, 2),
        ],
    ),
)
def test_a_signal_saves_and_stops(number, ranks, on_ranks, tmp_path):
    """At the same step on all ranks, one later where they have to agree; in the middle of an epoch
    and of a log interval. What then comes is bit for bit what would have come."""

    def go(function, *arguments):
        split = ["--split-model"] if ranks == 2 else []
        if ranks == 1:
            return [function(*arguments)]
        return on_ranks(function, ranks, *arguments, *split)

    go(train, *OPTIONS, "--out", tmp_path / "unbroken")
    out = tmp_path / "run"
    assert go(until_stopped, number, *OPTIONS, "--out", out) == [128 + number] * ranks
    assert [place.name for place in sorted(out.glob("checkpoints/step-*"))] == [
        "step-00000004",
        f"step-{5 if ranks == 1 else 6:08d}",
    ]
    go(train, "--out", out, "--resume")
    for key in ("loss", "error", "top1_error", "test_loss"):
        assert metrics(out, key) == metrics(tmp_path / "unbroken", key)


@pytest.mark.parametrize("needed", [1, 2], ids=["alone", "under torchrun, which sends the first twice"])
def test_only_another_ctrl_c_that_comes_later_takes_effect_at_once(needed, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    if needed == 2:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some")
    with Stop() as stop:
        stop.begin()
        for number in [signal.SIGINT] * (needed + 1) + [signal.SIGTERM]:  # at once
            signal.raise_signal(number)
        assert stop.signal == signal.SIGINT
    monkeypatch.setattr(Stop, "AT_ONCE", 0)
    with Stop() as stop:
        stop.begin()
        for number in [signal.SIGINT] * needed + [signal.SIGTERM]:  # later
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            stop.begin()
            signal.raise_signal(signal.SIGHUP)
            assert not stop.signal
            signal.raise_signal(signal.SIGUSR2)
            assert stop.signal == signal.SIGUSR2
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_signal_during_the_evaluation_saves_before_it(tmp_path, monkeypatch):
    """The evaluation is done when the run goes on."""
    from alexnet2gpu.runs import evaluate

    train(*OPTIONS, "--out", tmp_path / "unbroken")
    errors = evaluate.errors

    def signalled(*args):
        signal.raise_signal(signal.SIGTERM)
        return errors(*args)

    out = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(evaluate, "errors", signalled)
        train(*OPTIONS, "--out", out)
    state = json.loads((out / "checkpoints/step-00000004/state.json").read_text())
    assert state["progress"]["evaluation"] is None and not metrics(out, "top1_error")
    train("--out", out, "--resume")
    assert metrics(out, "top1_error") == metrics(tmp_path / "unbroken", "top1_error")
    assert metrics(out, "loss") == metrics(tmp_path / "unbroken", "loss")


def test_checkpoints_within_an_epoch(tmp_path):
    """One after every step, if no time may pass between them."""
    train(*OPTIONS, "--set", "train.save_minutes=0", "--set", "train.keep=100", "--out", tmp_path)
    saved = [int(place.name[5:]) for place in tmp_path.glob("checkpoints/step-*")]
    assert sorted(saved) == list(range(1, 13))


@pytest.mark.parametrize("moment", first(1, ["a checkpoint", "the metrics", "the start"]))
def test_a_full_disk_loses_nothing(moment, tmp_path, monkeypatch, capsys):
    train(*OPTIONS, "--set", "train.max_steps=4", "--out", tmp_path / "run")
    before = metrics(tmp_path / "run", "loss")

    def full(file, *rest, **how):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as exit_:
        if moment == "the metrics":
            patched.setattr("alexnet2gpu.runs.folder.Run.log", lambda run, **figures: full(run.metrics))
        elif moment == "the start":
            patched.setattr(files, "write_whole", full)
        else:
            patched.setattr("alexnet2gpu.runs.checkpoints.saver.files", Full(full))
        train("--out", tmp_path / "run", "--resume", "--set", "train.max_steps=12")
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and said.count("error: ") == 1, said
    assert "No space left on device" in said
    if moment != "the start":
        assert "after step " in said and f"--out {tmp_path / 'run'} --resume" in said
    assert not list(tmp_path.glob("run/checkpoints/.step*"))
    assert metrics(tmp_path / "run", "loss").items() >= before.items()
    train("--out", tmp_path / "run", "--resume", "--set", "train.max_steps=12")
    train(*OPTIONS, "--out", tmp_path / "unbroken")
    assert metrics(tmp_path / "run", "loss") == metrics(tmp_path / "unbroken", "loss")


@pytest.mark.slow
def test_a_run_whose_first_checkpoint_fails_can_be_resumed(tmp_path, monkeypatch, capsys):
    """Its first evaluation is in the metrics already."""

    def full(file, *rest, **how):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr("alexnet2gpu.runs.checkpoints.saver.files", Full(full))
        train(*OPTIONS, "--out", tmp_path / "run")
    train("--out", tmp_path / "run", "--resume")
    train(*OPTIONS, "--out", tmp_path / "unbroken")
    assert metrics(tmp_path / "run", "loss") == metrics(tmp_path / "unbroken", "loss")


class Full:
    """files.py on a full disk."""

    def __init__(self, write_whole):
        self.write_whole = write_whole

    def __getattr__(self, name):
        return getattr(files, name)


def agreed(calls):
    """What two ranks agree on, each with values of its own."""
    with Ranks(grid_of(2, "split"), 1) as ranks:
        return [ranks.largest_a_call_ago([100 * ranks.grid.rank + call, -call]) for call in range(calls)]


def test_ranks_agree_one_call_later(on_ranks):
    assert on_ranks(agreed, 2, 4) == [[[0, 0], [100, 0], [101, -1], [102, -2]]] * 2
    with Ranks(Grid()) as alone:
        assert alone.largest_a_call_ago([7, 8]) == [7, 8]


@pytest.mark.slow
def test_few_changed_files_end_as_they_should(tmp_path, monkeypatch):
    """python -m bench.faults changes a thousand."""
    monkeypatch.chdir(tmp_path)
    wrong = [
        f"{kind}, {what}: {how}"
        for kind, victim in fuzz.victims(tmp_path / "files").items()
        for what, how in fuzz.fuzz(victim, 40, seed=1)
        if how
    ]
    assert not wrong and not (tmp_path / "fuzzed").exists()
