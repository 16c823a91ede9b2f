"""If these fail, a GPU of this machine does not compute what the CPU does, or a program does not run on it.

Other tests hide GPUs from themselves. Here each item of `python -m bench.gpu check` is a test; without a GPU
they are skipped."""

import ctypes
import os
import subprocess
import sys

import conftest
import pytest

from bench.gpu import check

COUNT = "from alexnet2gpu.model.device import gpus; print(gpus())"


def seeing():
    """This process's environment, with the GPUs that the shell shows."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    shown = {} if conftest.VISIBLE is None else {"CUDA_VISIBLE_DEVICES": conftest.VISIBLE}
    return environment | shown


@pytest.fixture(scope="session")
def python():
    """Runs python, with its arguments, where GPUs can be seen."""

    def run(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=conftest.REPOSITORY, env=seeing(), capture_output=True, text=True)

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pytest.skip("no driver for GPUs")
    if not int(run("-c", COUNT).stdout or 0):
        pytest.skip("no GPU to compute on")
    return run


@pytest.mark.parametrize("item", [item.name for item in check.items()])
def test_check(item, python, tmp_path):
    done = python("-m", "bench.gpu", "check", "--only", item, "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("shown", [None, "1", ""])
def test_the_gpus_of_the_shell_are_seen(shown, monkeypatch):
    """Though they are hidden from this process."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setattr(conftest, "VISIBLE", shown)
    assert seeing().get("CUDA_VISIBLE_DEVICES") == shown
