"""If these fail, ranks are given up for no reason, or are not when they should be.

The clock and the store are played here, in one process; test_faults.py has real ranks.
"""

import _thread
import gc
import json
import os
import re
import signal
import socket
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

from alexnet2gpu.faults import processes, watch
from alexnet2gpu.ranks.link import Link
from alexnet2gpu.ranks.modes import Grid


class End(Exception):
    """In place of the end of the process: what is said."""


class Store(dict):
    """As much of a store as the watch uses."""

    def check(self, keys):
        return all(key in self for key in keys)

    def multi_get(self, keys):
        return [self[key] for key in keys]

    def compare_set(self, key, expected, desired):
        return self.setdefault(key, desired).encode()


class Clock:
    """Both the module `time` and an event that is waited for: each wait takes so many seconds."""

    def __init__(self):
        self.now, self.waits = 1000.0, []

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        if not self.waits:
            return True
        self.now += self.waits.pop(0)
        return False


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    return clock


@pytest.fixture
def w(clock, monkeypatch):
    """Rank 0 of 2, which has heard rank 1 and done ten steps of a second each."""

    def end(self, text, status, report=""):
        raise End(text)

    monkeypatch.setattr(watch.Watch, "_end", end)
    w = watch.Watch(Grid(world=2))
    w.store, w.over, w.answered = Store(), clock, float("inf")
    hear(w)
    for _ in range(10):
        w.tick()
        clock.now += 1
    return w


def hear(w, late=False, **word):
    own = {"host": "elsewhere", "kernel": "another", "pid": 1, "done": False, "ticks": 1, "at": "link.py:7"}
    w.store["1"] = json.dumps(own | word)
    w._listen(late)


def test_a_silent_rank_is_given_up(w, clock):
    clock.now += watch.SILENT - 11
    w._judge(watch.SILENT / 3)
    clock.now += 12
    with pytest.raises(End, match=r"rank 1 \(pid 1 on elsewhere\) has not answered for 15 s"):
        w._judge(watch.SILENT / 3)


def test_a_rank_that_is_done_may_be_silent(w, clock):
    hear(w, done=True)
    clock.now += 1000
    w._judge(watch.SILENT / 3)


def test_a_killed_rank_of_this_machine_is_named_before_its_silence_is_up(w, clock):
    """Where no communication fails, as while a checkpoint is written."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    hear(w, kernel=processes.kernel(), pid=child)
    w._judge(watch.SILENT / 3)
    clock.now += 6
    with pytest.raises(End, match=rf"rank 1 \(pid {child} on .*\) was killed or has crashed"):
        w._judge(watch.SILENT / 3)


def test_numbers_of_processes_count_only_where_they_were_given(w, clock):
    """Containers of one machine may have its name, and their own numbers."""
    hear(w, host=socket.gethostname(), kernel="another container's", pid=2**22 + 1)
    clock.now += 6
    w._judge(watch.SILENT / 3)


def test_a_rank_that_was_stopped_itself_accuses_nobody(w, clock):
    """After SIGCONT, others have to be heard again first."""
    clock.now += 100
    hear(w, late=True)
    w._judge(watch.SILENT / 3)
    assert w.moved == clock.now


def stuck_after(seconds, w, clock):
    """What is said if no step is done for so long; until then, nothing is."""
    clock.waits = [1] * (seconds - 1)
    w._look_at_the_clock()
    clock.waits = [1] * 2
    with pytest.raises(End, match=f"no step was done in {seconds} s") as end:
        w._look_at_the_clock()
    return str(end.value)


def test_all_are_stuck_if_nobody_gets_on(w, clock):
    clock.waits = [1] * 40
    w._look_at_the_clock()
    hear(w, ticks=2)  # the other has got on
    said = stuck_after(50, w, clock)
    assert "rank 0 is at " in said and "rank 1 is at link.py:7" in said


def test_the_machine_with_the_store_is_named_if_it_is_silent(w, clock, monkeypatch):
    """By the first rank of each other machine: nobody can say who was first."""
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.7")
    w.answered = clock.now
    clock.waits = [1] * 31
    silent = "rank 0: machine 10.0.0.7, which has the store, has not answered for 30 s"
    with pytest.raises(End, match=silent):
        w._look_at_the_clock()
    w.grid, clock.waits = Grid(world=2, local_rank=1), [1]
    with pytest.raises(End, match="^$"):
        w._look_at_the_clock()


def test_long_steps_are_waited_for(w, clock):
    clock.now += 29  # with the fixture's second: a step of 30 s
    w.tick()
    stuck_after(150, w, clock)


def test_a_pause_of_the_whole_job_is_no_step(w, clock):
    """SIGSTOP to all, an hour later SIGCONT: nobody is stuck, nor is an hour a step's length."""
    clock.waits = [1, 3600, 1]
    w._look_at_the_clock()
    w.tick()
    w.answered = float("inf")
    stuck_after(50, w, clock)


def test_alone_a_rank_is_never_stuck(w, clock):
    w.grid = Grid()
    clock.waits = [1] * 1000
    w._look_at_the_clock()


def test_a_rank_whose_launcher_is_gone_is_told_to_stop_and_ended_if_it_does_not(monkeypatch, capsys):
    ended, told = threading.Event(), []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one rank")
    monkeypatch.setattr(watch, "LAUNCHER", 0)  # not this process's parent: it is gone
    monkeypatch.setattr(watch, "EVERY", 0.01)
    monkeypatch.setattr(watch, "LEAVE", 0.1)
    monkeypatch.setattr(watch.os, "kill", lambda pid, number: told.append((pid, number)))
    monkeypatch.setattr(watch.Watch, "_end", lambda w, text, status: ended.set())
    with watch.Watch(Grid()):
        assert ended.wait(60)
    assert told == [(os.getpid(), signal.SIGTERM)]
    assert capsys.readouterr().err.count("torchrun is gone, so this rank ends too") == 1


def test_no_thread_to_watch_with_is_one_line(monkeypatch, capsys):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(SystemExit) as exit_, watch.Watch(Grid()):
        pass
    assert (
        exit_.value.code == 2 and capsys.readouterr().err == "\nerror: RuntimeError: can't start new thread\n"
    )


def test_a_verdict_is_obeyed_by_others_only(monkeypatch):
    """While one thread gives up and tells, another of the same process waits: it would end the
    process before anything was said."""
    w, said = watch.Watch(Grid(world=2)), []
    w.store = Store()
    ended = threading.Event()

    def exit_(status):
        said.append(status)
        ended.set()
        threading.Event().wait()  # the process is gone

    def compare_set(key, expected, desired):
        w.store[key] = desired
        other = threading.Thread(target=w._obey, daemon=True)
        other.start()
        other.join(0.2)
        return desired.encode()

    w.store.compare_set, w.store.get = compare_set, lambda key: dict.get(w.store, key)
    monkeypatch.setattr(watch, "SILENT", threading.TIMEOUT_MAX)  # or it would end pytest, 15 s later
    monkeypatch.setattr(watch.os, "_exit", exit_)
    monkeypatch.setattr(watch, "show_error", lambda text, report: said.append(text))
    threading.Thread(target=w._give_up, args=("rank 0: a bug", 1), daemon=True).start()
    assert ended.wait(60)
    assert said == ["rank 0: a bug", 1]


def test_a_rank_that_hangs_on_the_way_back_is_seen_there():
    """On a GPU autograd runs backward in a thread of its own, which Python has not started: the main
    thread stays in the step."""
    here, go_on = threading.Event(), threading.Event()

    def wait():
        here.set()
        go_on.wait(60)
        return [torch.zeros(1, 2)]

    link = SimpleNamespace(axis=1, start_gather=lambda half, way: wait)
    _thread.start_new_thread(Link.gather, (link, torch.zeros(1, 2)))
    assert here.wait(60)
    try:
        assert re.fullmatch(r"link.py:\d+ \(gather\)", processes.whereabouts())
    finally:
        go_on.set()


def test_a_gpu_whose_memory_nccl_has_not_is_no_fault_of_other_ranks():
    error = torch.distributed.DistBackendError("NCCL error: ... Cuda failure 2 'out of memory'")
    assert not processes.communication_failed(error)
    assert processes.communication_failed(torch.distributed.DistBackendError("NCCL: remote exited"))


def test_a_batch_that_is_too_large_is_one_line_with_the_way_out(capsys):
    with pytest.raises(SystemExit), watch.Watch(Grid()):
        raise torch.AcceleratorError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA", 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and "Traceback" not in said
    assert said.endswith(": make train.batch smaller: launch/memory.py --budget finds how large it may be\n")


def test_to_ask_where_a_process_is_keeps_nothing_alive():
    """Frames refer to all that a step works on, model and process groups among it."""

    class Model:
        pass

    def step():
        model = Model()
        processes.whereabouts()
        return weakref.ref(model)

    gc.disable()
    try:
        assert step()() is None
    finally:
        gc.enable()
