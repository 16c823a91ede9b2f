"""If these fail, a run loses what it has done at a stop, or is ended by something that should not end it.

Real commands, started and stopped as people do it; the rows are some of bench/faults/stops.py.
"""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.faults import live, stops
from bench.processes import without_ranks
from bench.results import REPOSITORY, steps_of

TOGETHER = ["SIGINT, one device, tee", "terminal gone", "rm -rf OUT/*"]
ONE_BY_ONE = ["SIGUSR1, split, 2 ranks", "SIGHUP, split, 2 ranks, tee", "rm -rf OUT/*, torchrun"]
ONE_BY_ONE += ["two starts without --out", "torchrun stopped before the end", "a mistake, torchrun"]

no_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
pytestmark = [no_proc, pytest.mark.slow]


@pytest.fixture(scope="module")
def unbroken(on_ranks, tmp_path_factory):
    """What a mode comes to, if nothing happens; of DDP there are only mistakes."""
    known = {stops.DDP: None}

    def outcome(mode):
        if mode not in known:
            known[mode] = live.unbroken(mode, tmp_path_factory.mktemp("unbroken") / "run", on_ranks)
        return known[mode]

    return outcome


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """At the same time: it is their start that takes long."""
    with ThreadPoolExecutor() as threads:
        begun = {
            name: threads.submit(stops.start, stops.CASES[name], tmp_path_factory.mktemp("case"))
            for name in TOGETHER
        }
        return {name: live.result() for name, live in begun.items()}


@pytest.mark.parametrize("name", TOGETHER)
def test_nothing_is_lost_after(name, ended, on_ranks, unbroken):
    right, seen = stops.judge(stops.CASES[name], ended[name], on_ranks, unbroken(stops.ALONE))
    assert right, seen


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_it_comes_as_it_should_with(name, on_ranks, unbroken, tmp_path):
    case = stops.CASES[name]
    right, seen = stops.judge(case, stops.start(case, tmp_path), on_ranks, unbroken(case.mode))
    assert right, seen


def test_the_script_for_slurm_saves_is_queued_again_and_goes_on(tmp_path):
    """That of docs/faults.md, with a small network; Slurm is a scontrol that takes note."""
    page = (REPOSITORY / "docs" / "faults.md").read_text()
    script = re.search(r"```sh\n(#!/bin/bash.*?)```", page, re.S)[1]
    for old, new in {
        "runs/mine": str(tmp_path / "run"),
        "configs/alexnet.yaml --data photographs": "configs/quick.yaml --set train.log_every=1",
    }.items():
        assert script.count(old) == 1
        script = script.replace(old, new)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f"#!/bin/sh\necho $* >> {tmp_path}/queued\n")
    (tools / "scontrol").chmod(0o755)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**without_ranks(), "PATH": path, "SLURM_JOB_ID": "17", "CUDA_VISIBLE_DEVICES": ""}
    steps = 0
    for start in (1, 2):
        command = ["bash", "-c", script]
        job = subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True)
        until = time.monotonic() + 60
        while steps_of(tmp_path / "run") <= steps and time.monotonic() < until:
            time.sleep(0.1)
        job.send_signal(signal.SIGUSR1)
        job.wait(60)
        assert (tmp_path / "queued").read_text().splitlines() == ["requeue 17"] * start
        before, steps = steps, steps_of(tmp_path / "run")
        assert (tmp_path / "run" / "checkpoints" / f"step-{steps:08d}").is_dir() and steps > before
