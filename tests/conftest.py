"""`on_ranks(function, n, *args)` runs a function on n gloo processes and returns their answers.

The processes are started once and kept: importing torch is what takes time. Each call gives them a
new rendezvous, in the environment as torchrun would, on a port that the system chooses. A rank
that raises fails the test with that rank's traceback; ranks that have not answered within a minute
are killed and fail it too.

The fixtures of photographs and packs are made once for all files: no test may change them.
"""

import contextlib
import datetime
import io
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import pytest

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests are of gloo on the CPU, also where there are GPUs
import scenes  # noqa: E402
import torch.distributed as dist  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # as python -m has it
from bench.results import program_of as program  # noqa: E402

PATIENCE = 60  # seconds


def pytest_addoption(parser):
    parser.addoption(
        "--own-processes",
        action="store_true",
        help="make every mistake of test_mistakes.py in new processes: slower, as a user would",
    )


def serve(pipe):
    """The life of a process: wait for a task, run it, answer."""
    from alexnet2gpu.ranks import groups

    groups.TIMEOUT = datetime.timedelta(seconds=PATIENCE / 2)
    while True:
        function, args, environment = pipe.recv()
        os.environ.update(environment)
        try:
            pipe.send((True, function(*args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


class Pool:
    """Processes, each with a pipe to it; as many as the largest test has asked for."""

    def __init__(self):
        self.members = []

    def __call__(self, function, ranks, *args):
        context = multiprocessing.get_context("spawn")
        while len(self.members) < ranks:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.members.append((process, ours))
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank in range(ranks):
            self.members[rank][1].send(
                (
                    function,
                    args,
                    {
                        "RANK": str(rank),
                        "WORLD_SIZE": str(ranks),
                        "LOCAL_RANK": str(rank),
                        "LOCAL_WORLD_SIZE": str(ranks),
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(store.port),
                        "TORCHELASTIC_USE_AGENT_STORE": "True",
                    },
                )
            )
        return self.collect(ranks)

    def collect(self, ranks):
        """The answers in order of ranks. After a failure no process is reused: it may be waiting
        for another."""
        deadline, answers = time.monotonic() + PATIENCE, {}
        while len(answers) < ranks:
            for rank in range(ranks):
                pipe = self.members[rank][1]
                if rank in answers or not pipe.poll(0.01):
                    continue
                try:
                    good, answers[rank] = pipe.recv()
                except EOFError:
                    good, answers[rank] = False, "the process died"
                if not good:
                    self.close()
                    pytest.fail(f"rank {rank} of {ranks}:\n{answers[rank]}", pytrace=False)
            if time.monotonic() > deadline:
                self.close()
                pytest.fail(
                    f"after {PATIENCE} s only ranks {sorted(answers)} of {ranks} have answered: a deadlock?"
                )
        return [answers[rank] for rank in range(ranks)]

    def close(self):
        """Kill all."""
        for process, _ in self.members:
            process.kill()
        self.members = []


@pytest.fixture(scope="session")
def on_ranks():
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def photographs_folder(tmp_path_factory):
    """21 photographs of three classes in train/, 6 of two of them in val/."""
    return scenes.write_folder(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="session")
def packs(photographs_folder, tmp_path_factory):
    """Store -> the folder packed in it, by two processes."""
    from alexnet2gpu.data.pack import growth, packing

    base = tmp_path_factory.mktemp("packs")
    for store in ("raw", "jpeg"):
        form = growth.Form(store, scenes.SIZE, quality=80)
        packing.make_pack(photographs_folder, base / store, form, workers=2)
    return {store: base / store for store in ("raw", "jpeg")}


@pytest.fixture
def no_processes(monkeypatch):
    """Packing without worker processes and without waiting for the disk."""
    from alexnet2gpu.data.pack import workers

    monkeypatch.setattr(workers, "ProcessPoolExecutor", scenes.InThisProcess)
    monkeypatch.setattr(workers, "WORK", 8)
    monkeypatch.setattr(os, "fsync", lambda file: None)


def run(name, *arguments):
    """A program of launch/ in this process, or one rank's part of it on a rank of the pool: what its main
    returns."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return program(name).main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)


def train(*arguments):
    """launch/train.py, likewise."""
    run("train", *arguments)


def ended(name, *arguments):
    """A program of launch/, likewise: its exit status, and what it printed on stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            status = run(name, *arguments)
        except SystemExit as exit_:
            status = exit_.code
    return status or 0, stderr.getvalue()


def metrics(folder, key):
    """Step -> value of `key`, from the lines of a run's metrics.jsonl that have it."""
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def ranks_of(folder):
    """The ranks in a run's memory.json."""
    return json.loads((folder / "memory.json").read_text())["ranks"]
