"""If these fail, a closed pipe or a full disk behind a log ends a run, or torchrun hides why one ended."""

import io
import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from alexnet2gpu.faults import screen


class Broken(io.StringIO):
    """A stream that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Broken()], ids=["closed from the start", "broken"])
def test_output_that_nobody_can_take_is_lost(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    screen.protect()
    first = sys.stdout
    screen.protect()
    assert sys.stdout is first  # once is enough
    print("to nobody", flush=True)


def test_letters_that_a_terminal_has_not_are_written_out(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, "ascii"))
    screen.protect()
    print("größe \udc80", flush=True)
    assert content.getvalue() == b"gr\\xf6\\xdfe \\udc80\n"


def test_no_file_takes_the_place_of_a_closed_stderr(tmp_path):
    """Or what others write to stderr, such as torch's own warnings, would land in it."""
    code = "import os; from alexnet2gpu.faults import screen; screen.protect(); "
    code += f"opened = open({str(tmp_path / 'file')!r}, 'w'); os.write(2, b'a warning')"
    command = f'{sys.executable} -c "{code}" 2>&-'
    assert subprocess.run(command, shell=True, cwd=REPOSITORY).returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_torchrun_tells_what_has_ended_a_rank(tmp_path, monkeypatch):
    """As torch's own reader of it has it."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    screen.note_error("train.batch 7: make it a multiple")
    failure = ProcessFailure(0, 1, 2, str(tmp_path / "error.json"))
    assert failure.message["message"] == "train.batch 7: make it a multiple" and failure.timestamp > 0
    assert json.loads((tmp_path / "error.json").read_text())["message"]["extraInfo"]["py_callstack"]
