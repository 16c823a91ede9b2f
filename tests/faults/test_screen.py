"""If these fail, a closed pipe or a full disk behind a log ends a run, or torchrun hides why one ended."""

import json
import shlex
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from alexnet2gpu.faults import screen
from alexnet2gpu.faults.mistakes import one_line


def python(code, redirected):
    """A program whose output is protected and redirected, by a shell: how it has ended."""
    code = f"import os, sys; from alexnet2gpu.faults import screen; screen.protect(); {code}"
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -c {shlex.quote(code)} {redirected}"
    return subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True)


@pytest.mark.parametrize(
    "redirected", ["| true", "2>&1 | true", "> /dev/full", "2> /dev/full", ">&-", "2>&-"]
)
def test_output_that_nobody_can_take_is_lost(redirected):
    code = "print('x' * 10**6, flush=True); sys.stderr.writelines(['y'] * 10**6); print('end'); 1 / 0"
    ended = python(f"screen.protect()\ntry: {code}\nexcept ZeroDivisionError: sys.exit(7)", redirected)
    assert ended.returncode == 7
    assert not ended.stderr.strip("y")


def test_letters_that_a_terminal_has_not_are_written_out():
    ended = python("print('größe \\udc80')", "| cat; exit ${PIPESTATUS[0]}")
    assert ended.returncode == 0 and ended.stdout.endswith("e \\udc80\n"), ended


def test_a_line_keeps_its_start_and_its_way_out():
    said = one_line(ValueError("train.yaml: " + 10**4 * "x" + ": give another"))
    assert said.startswith("train.yaml: xxx") and said.endswith("xxx: give another") and len(said) < 1400


def test_streams_of_others_are_left_alone(capsys):
    before = sys.stdout
    screen.protect()
    assert sys.stdout is before


def test_no_file_takes_the_place_of_a_closed_stderr(tmp_path):
    """Or what others write to stderr, such as torch's own warnings, would land in it."""
    file = tmp_path / "file"
    assert python(f"opened = open({str(file)!r}, 'w'); os.write(2, b'a warning')", "2>&-").returncode == 0
    assert file.read_text() == ""


def test_torchrun_tells_what_has_ended_a_rank(tmp_path, monkeypatch):
    """As torch's own reader of it has it."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    screen.note_error("train.batch 7: make it a multiple")
    failure = ProcessFailure(0, 1, 2, str(tmp_path / "error.json"))
    assert failure.message["message"] == "train.batch 7: make it a multiple" and failure.timestamp > 0
    assert json.loads((tmp_path / "error.json").read_text())["message"]["extraInfo"]["py_callstack"]
