"""A command that trains, in a session of its own, what comes of it and what is done to it: for stops.py.

The shell is the leader of the session, so that a signal to its group gets to all that a terminal's Ctrl-C
would get to: tee too, which is gone before a rank has noted anything, but not torchrun's ranks, each of which
has a session of its own. In the command are {start}, a run of 24 steps in OUT, which is `run`; {unnamed}, the
same without --out; {terminal}, one that nobody reads.
"""

import contextlib
import io
import os
import pty
import shlex
import signal
import subprocess
import time

from alexnet2gpu.faults.processes import alive
from alexnet2gpu.faults.watch import EVERY
from alexnet2gpu.runs.checkpoints.format import checkpoints_of, step_of
from bench.faults.campaign import outcome
from bench.faults.victim import children
from bench.modes.runs import MODES
from bench.processes import Failed
from bench.results import launch, program_of, sets, steps_of

SHORT = [
    "data.name=synthetic",
    "train.epochs=3",
    "train.log_every=1",
    "train.threads=1",  # so that the bits of a process that is kept are those of a new one
    "optim.schedule=[{epoch: 1, weights: 0.01, biases: 0.02}]",
]
LAST, LATER = 24, 20  # steps: the end, and one of the last epoch
START, GONE = 300, 60  # seconds, to get to a step, and for all to be gone


class Live:
    """A command that has been started in `folder`; after `end` also its exit `status`, and how many processes
    were `left` that had to be killed."""

    def __init__(self, folder, mode, shell):
        self.folder, self.out, self.pids = folder, folder / "run", set()
        ranks, flags = MODES[mode]
        arguments = [*flags, *sets(SHORT)]
        self.terminal, other_end = pty.openpty()
        command = shell.format(
            start=shlex.join(launch("train", "--out", "run", *arguments, ranks=ranks)),
            unnamed=shlex.join(launch("train", *arguments, ranks=ranks)),
            terminal=os.ttyname(other_end),
        )
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(
            ["bash", "-c", command], cwd=folder, start_new_session=True, preexec_fn=as_usual, **nowhere
        )
        os.close(other_end)

    def wait(self, true, patience=GONE):
        """Until it is true, or so many seconds are over."""
        until = time.monotonic() + patience
        while not true() and time.monotonic() < until:
            self.pids |= set(tree(self.process.pid))
            time.sleep(0.01)

    def reach(self, step):
        """Wait until this step is logged, or the command has ended."""
        self.wait(lambda: self.logged() >= step or self.process.poll() is not None, START)

    def end(self):
        """Wait for all to be gone, kill those that stay."""
        self.wait(lambda: self.process.poll() is not None and not self.living())
        left = self.living()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.left = len(left)
        self.status = self.process.wait()
        self.close_terminal()

    def close_terminal(self):
        """As when its window is closed, or the connection lost."""
        if self.terminal is not None:
            os.close(self.terminal)
        self.terminal = None

    def living(self):
        """Of all processes that it has started, those that are there."""
        return [pid for pid in self.pids if alive(pid)]

    def started(self):
        """What the command has started itself: torchrun its ranks, a shell the parts of a pipe."""
        return sorted(pid for pid in children(self.process.pid) if alive(pid))

    def logged(self):
        """The last step in its metrics."""
        return steps_of(self.out)

    def saved(self):
        """The step of its newest checkpoint."""
        return max(map(step_of, checkpoints_of(self.out / "checkpoints")), default=0)

    def said(self):
        """The lines of all that it has written into files `log...`."""
        files = sorted(self.folder.glob("log*"))
        return [line for file in files for line in file.read_text(errors="replace").splitlines()]


def as_usual():
    """Whoever started the bench may ignore signals, as nohup does and a shell's `&`."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def tree(pid):
    """A process and all that come of it."""
    return [pid, *(descendant for child in children(pid) for descendant in tree(child))]


def to_group(number):
    return lambda live: os.killpg(live.process.pid, number)


def to_tee_first(number):
    """It has nothing to save, so it is gone before the others have noted anything; on a busy machine too."""

    def act(live):
        tee = max(live.started())  # of a pipe, the last
        os.kill(tee, number)
        live.wait(lambda: not alive(tee))
        os.killpg(live.process.pid, number)

    return act


def with_torchrun_gone(act):
    """Ranks stand still until it is gone and they are due to look for it, which they do once a second: a fast
    machine may need less than that for all that is left of 24 steps."""

    def acted(live):
        group = os.getpgid(live.process.pid)
        ranks = [pid for pid in tree(live.process.pid) if os.getpgid(pid) != group]
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        act(live)
        time.sleep(EVERY)
        for pid in ranks:
            os.kill(pid, signal.SIGCONT)

    return acted


def to_ranks(number, which=slice(None)):
    return lambda live: [os.kill(pid, number) for pid in live.started()[which]]


def by_shell(command, then=None):
    """A command in the run's directory; `then` a signal, in the next epoch."""

    def act(live):
        subprocess.run(["bash", "-c", command], cwd=live.folder, stderr=subprocess.DEVNULL)
        if then:
            live.reach(LATER)
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(live.process.pid, then)

    return act


def stop_torchrun(live):
    """Until its ranks have ended."""
    ranks = live.started()
    os.kill(live.process.pid, signal.SIGSTOP)
    live.wait(lambda: not any(map(alive, ranks)))
    os.kill(live.process.pid, signal.SIGCONT)


def train(pool, mode, *arguments):
    """launch/train.py in processes of a pool, which need not import torch each time. Returns: what it says if
    it fails, else nothing."""
    ranks, flags = MODES[mode]
    try:
        return "".join(pool(_train, ranks, *flags, *map(str, arguments)))
    except Failed as error:
        return str(error)


def unbroken(mode, folder, pool):
    """What a run comes to, to which nothing happens."""
    wrong = train(pool, mode, *sets(SHORT), "--out", folder)
    assert not wrong, wrong
    return outcome(folder)


def _train(*arguments):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            program_of("train").main(list(arguments))
        except SystemExit as exit_:
            return f"status {exit_.code}: {said.getvalue().strip()}"
    return ""
