"""If these fail, a call that fails, as on a full disk, costs a run what it had, or ends it without its line.

`python -m bench.faults.calls` lets every call fail, on every rank.
"""

import ast
import errno
import platform
import shutil
import subprocess
import sys

import pytest

from bench.faults.calls import run
from bench.faults.forks import FUNCTIONS, Ended, complaints, preloaded

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not shutil.which("cc"), reason="preloads a library for glibc"
)
WRITES = """
import ctypes, os, sys
ours, others, which, forever = *sys.argv[1:3], *map(int, sys.argv[3:])
called, third = ctypes.c_long(), ctypes.c_long(3)
ctypes.CDLL(None).fail_call(os.fsencode(ours), which, 28, forever, third, ctypes.byref(called))
found = []
for number in range(5):
    for folder in (others, ours):
        with open(f"{folder}/{number}", "wb", buffering=0) as file:
            try:
                file.write(b"12345678")
            except OSError as error:
                found.append((folder, number, error.errno, os.path.getsize(file.name)))
print([called.value, found])
"""


@pytest.mark.parametrize("forever", [False, True])
def test_the_third_write_in_a_folder_fails(forever, tmp_path):
    """Or all from the third on; half of its bytes are there. Those elsewhere do not count, also where the
    name of the folder begins alike."""
    folders = [str(tmp_path / name) for name in ("out", "out-2")]
    for folder in folders:
        (tmp_path / folder).mkdir()
    which = list(FUNCTIONS).index("write")
    with preloaded(tmp_path):
        command = [sys.executable, "-c", WRITES, *folders, str(which), str(int(forever))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed = [2, 3, 4] if forever else [2]
    assert ast.literal_eval(said) == [5, [(folders[0], number, errno.ENOSPC, 4) for number in failed]]


def test_what_is_a_wrong_end():
    """Each but the first two differs from them in one thing, which is found."""
    line = "epoch 1\nerror: rank 1: [Errno 28] No space left on device\n"
    good = Ended([2, 2], False, line)
    assert complaints(good, True, 1) == complaints(Ended([0, 0], False), True, 1) == []
    sent_sigterm = good._replace(statuses=[143, 2])
    assert not complaints(sent_sigterm, False, 1) and complaints(sent_sigterm, True, 1)
    assert complaints(sent_sigterm, False, 0)  # the one that failed has to say so
    for wrong in (
        {"statuses": [2, None]},  # killed at last
        {"statuses": [0, None]},
        {"statuses": [2, 1]},
        {"statuses": [0, 0]},  # borne, and still a line
        {"left": True},
        {"said": "epoch 1\n"},
        {"said": 2 * line},
        {"said": f"Traceback (most recent call last):\n{line}"},
    ):
        assert complaints(good._replace(**wrong), True, 1), wrong
    assert not complaints(good._replace(said="", noted=["", "full"]), True, 1)  # torchrun shows it


@pytest.mark.slow
def test_nothing_is_lost_when_a_call_fails(tmp_path):
    functions = ["fsync", "rename", "open", "thread"]
    found = run(tmp_path, only=functions, who=["one device", "rank 1 of 2"], most=3)
    assert found["lost"] == 0 and not found["wrong"], found["wrong"]
    assert {part["function"] for part in found["parts"] if part["n"] == 3} == set(functions)
