"""If these fail, two machines that were told different things train on, silently wrong, or a cable that was
out for seconds ends a run. bench/faults/machines.py has more of it, most too slow for tests."""

import os
import signal
import time

import pytest

from alexnet2gpu.faults.processes import alive
from bench.faults import machines
from bench.faults.network import Network, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"needs two machines on this one: {why_not()}")


@pytest.mark.slow
def test_two_machines_with_different_seeds_end_before_the_first_step(tmp_path):
    """Both with status 2, and one line for both, which says what it is and where."""
    found = machines.run(tmp_path, ["seed"])["seed"]
    assert found["statuses"] == [2, 2], found
    (line,) = found["said"]
    assert "train.seed" in line and "0 on machine-1" in line and "1 on machine-2" in line
    assert not [line for file in tmp_path.glob("*/disk/run/metrics.jsonl") for line in open(file)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["code", "out", "data elsewhere", "cut for 8 s, one host name"])
def test_what_happens_to_two_machines(name, tmp_path):
    """As the scenario says: its own check is what is asserted."""
    found = machines.run(tmp_path, [name])[name]
    assert found["right"], found


def test_machines_are_gone_with_the_process_that_made_them():
    """Killed without a chance to clean up, it leaves no process of theirs, with which all else goes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            network = Network()
            network.boot("machine-1", "machine-2")
            pids = [room.pid for room in (network.switch, *network.machines)]
            os.write(writing, " ".join(map(str, pids)).encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    pids = list(map(int, os.read(reading, 100).split()))
    assert len(pids) == 3 and all(map(alive, pids))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids))
