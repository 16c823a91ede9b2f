"""SIGTERM and Ctrl-C, noted: the loop ends at its next step."""

import signal
import time


class Stop:
    """A context manager that notes what schedulers send before a time limit, to every process of a job and
    often more than once. Only a second Ctrl-C takes effect at once, if it comes AT_ONCE seconds later."""

    AT_ONCE = 1.0

    def __init__(self):
        self.signal = self.when = 0  # the number of what has come, and the time
        self.previous = {}

    def __enter__(self):
        return self

    def begin(self) -> None:
        """Take note until the context ends: also while a failure is reported: then torchrun sends SIGTERM."""
        self.previous = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if not self.signal:
            self.signal, self.when = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.when > self.AT_ONCE:
            raise KeyboardInterrupt
