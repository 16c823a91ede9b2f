"""`on_ranks(function, n, *args)` runs a function on n gloo processes and returns their answers.

The processes are started once and kept (bench/processes.py). A rank that raises fails the test with that
rank's traceback; ranks that have not answered within a minute are killed and fail it too.

The fixtures of photographs and packs are made once for all files: no test may change them.
"""

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest

VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")  # for tests/gpu
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # other tests are of gloo on the CPU, also where there are GPUs
# Convolutions as on a CPU without AVX-512, for which the pages have bytes; test_scratch.py has the others.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
import scenes  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # as python -m has it
from bench import processes  # noqa: E402
from bench.results import program_of as program  # noqa: E402


def pytest_addoption(parser):
    parser.addoption(
        "--own-processes",
        action="store_true",
        help="make every mistake of test_mistakes.py in new processes: slower, as a user would",
    )


def first(count, cases):
    """For parametrize: the cases, all but the first `count` as slow ones."""
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=[pytest.mark.slow] * (n >= count)) for n, case in enumerate(cases)]


class Pool(processes.Pool):
    """Its failures are the test's."""

    def __call__(self, function, ranks, *args):
        try:
            return super().__call__(function, ranks, *args)
        except processes.Failed as error:
            pytest.fail(str(error), pytrace=False)


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
    from alexnet2gpu.data.pack import layout, packing

    base = tmp_path_factory.mktemp("packs")
    for store in ("raw", "jpeg"):
        form = layout.Form(store, scenes.SIZE, quality=80)
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
