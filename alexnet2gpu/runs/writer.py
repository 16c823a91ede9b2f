"""A thread that writes the files of a run, so that training does not wait for the disk.

It does what it is given in order, so metrics are on the disk before the checkpoint that comes after them.
"""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 240  # seconds, with a disk, if all wait for it; less than groups.TIMEOUT
LEAVE = 20  # seconds, with a disk, after an error


class Writer:
    """Of one rank. `tick` is called now and then while it is waited for."""

    def __init__(self, folder: Path, tick: Callable[[], None]):
        self.folder, self.tick = folder, tick
        self.jobs, self.thread, self.error = queue.Queue(), None, None
        self.moved = 0.0  # when it last got on
        self.over = threading.Event()  # after an error, what a job waits for may never come

    def do(self, job: Callable, *args) -> None:
        """Begin `job`, once those before are done. Raises: what one of those has met."""
        self.check()
        if self.thread is None:
            # A daemon may be left behind, should the disk hang; no executor's thread may.
            self.thread = threading.Thread(target=self._work, name="writer", daemon=True)
            self.thread.start()
        self.jobs.put((job, args))

    def _work(self):
        while True:
            job, args = self.jobs.get()
            try:
                job(*args)
            except BaseException as error:
                self.error = self.error or error
            job = args = None  # they may be as large as the model
            self.moved = time.monotonic()
            self.jobs.task_done()

    def check(self) -> None:
        """Raises: what a job has met, such as OSError of a full disk."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def wait(self) -> None:
        """Return when all jobs are done. Raises: what one has met; OSError if the disk does not get on."""
        began = time.monotonic()
        while self._unfinished(1):
            self.tick()
            self.check()
            if time.monotonic() - max(began, self.moved) > PATIENCE:
                waited = f"nothing could be written in {PATIENCE} s"
                raise OSError(f"{self.folder}: {waited}: the disk does not answer")
        self.check()

    def _unfinished(self, seconds):
        """Whether there are jobs still, after so many seconds at most."""
        with self.jobs.all_tasks_done:
            return not self.jobs.all_tasks_done.wait_for(lambda: not self.jobs.unfinished_tasks, seconds)

    def leave(self) -> None:
        """Wait for what is still to be written, after an error not for long."""
        self.over.set()
        self._unfinished(LEAVE)
