"""Processes that stay: a pool runs a function on some of them, as ranks that torchrun had started.

They are started when they are first asked for, and kept: importing torch is what takes time. Each call gives
them a new rendezvous, in the environment as torchrun would, on a port that the system chooses. A rank that
raises, dies or has not answered in time ends the call with Failed, and all processes, since others may be
waiting for it; the next call starts new ones. Each has a process group of its own, so that what it has
started ends with it.
"""

import datetime
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import suppress

PATIENCE = 60  # seconds
GRACE = 6  # seconds that a process has to end the programs that it has started


class Failed(RuntimeError):
    """What a rank has raised, or that it has died."""


class TooLate(Failed):
    """Some ranks have not answered in time."""


def serve(pipe):
    """The life of a process: wait for a task, run it, answer."""
    os.setsid()
    while True:
        try:
            function, args, environment, patience = pipe.recv()
        except EOFError:  # nobody is there any more to ask
            return
        os.environ.update(environment)
        if "torch" in sys.modules:  # by way of the function
            _hurry(patience)
        try:
            answer = True, function(*args)
        except BaseException:
            answer = False, traceback.format_exc()
        try:
            pipe.send(answer)
        except OSError:
            return
        except Exception:  # what it returns cannot be sent
            pipe.send((False, traceback.format_exc()))
        function = args = answer = None
        _tidy()


def _hurry(patience):
    """A message between ranks may take half of the patience, so that it is they who say where they wait."""
    from alexnet2gpu.ranks import groups

    groups.TIMEOUT = datetime.timedelta(seconds=max(1, patience / 2))


def _tidy():
    """Give a GPU's memory back: other processes may need it now, and what is measured next is to be its own.
    cuBLAS has a workspace for each stream that there has been."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        gc.collect()
        with suppress(RuntimeError, AttributeError):
            torch.cuda.synchronize()
            torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.empty_cache()


class Pool:
    """Processes, each with a pipe to it; as many as the largest call has asked for."""

    def __init__(self):
        self.members = []

    def __call__(self, function, ranks, *args, patience=PATIENCE):
        """What function(*args) returns on each of so many ranks, in order. Raises: Failed; TooLate if it
        takes more than `patience` seconds, of which new processes take some to start."""
        import torch.distributed as dist

        self._start(ranks)
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank in range(ranks):
            task = function, args, environment_of(rank, ranks, store.port), patience
            try:
                self.members[rank][1].send(task)
            except OSError:
                self.close()
                raise Failed(f"rank {rank} of {ranks}: the process had died") from None
        return self._collect(ranks, patience)

    def _start(self, ranks):
        context = multiprocessing.get_context("spawn")
        while len(self.members) < ranks:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.members.append((process, ours))

    def _collect(self, ranks, patience):
        deadline, answers = time.monotonic() + patience, {}
        while len(answers) < ranks:
            for rank in range(ranks):
                pipe = self.members[rank][1]
                if rank in answers or not pipe.poll(0.01):
                    continue
                try:
                    good, answers[rank] = pipe.recv()
                except (EOFError, OSError):
                    good, answers[rank] = False, "the process died"
                if not good:
                    self.close()
                    raise Failed(f"rank {rank} of {ranks}:\n{answers[rank]}")
            if time.monotonic() > deadline:
                self.close()
                late = f"after {patience:.0f} s only ranks {sorted(answers)} of {ranks} have answered"
                raise TooLate(f"{late}: a deadlock?")
        return [answers[rank] for rank in range(ranks)]

    def close(self):
        """End all, and what they have started."""
        members, self.members = self.members, []
        for process, pipe in members:
            pipe.close()
            _signal(process, signal.SIGTERM)
        until = time.monotonic() + GRACE
        for process, _ in members:
            process.join(max(0, until - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.kill()  # also before it has a group of its own
            process.join()


def _signal(process, number):
    """To a process and all of its group, if it has one."""
    with suppress(OSError):
        os.killpg(process.pid, number)


def environment_of(rank, ranks, port):
    """As torchrun gives it to a rank, all of them on this machine."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def without_ranks():
    """This process's environment, but for what it says of its rank: for programs that it starts."""
    return {key: value for key, value in os.environ.items() if key not in environment_of(0, 1, 0)}
