"""Signals that announce an end, noted: the loop saves and ends at its next step."""

import os
import signal
import time

# What people, terminals that are closed, and schedulers before a time limit send.
SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2


class Stop:
    """A context manager that notes SIGNALS, which come to every process of a job and often more than once.
    Only another Ctrl-C takes effect at once, if it comes AT_ONCE seconds later; under torchrun, which passes
    the first one on, it is the third."""

    AT_ONCE = 1.0

    def __init__(self):
        self.signal = self.when = 0  # the number of what has come, and the time
        self.previous = {}
        self.patience = 2 if "TORCHELASTIC_RUN_ID" in os.environ else 1  # with more of Ctrl-C

    def __enter__(self):
        return self

    def begin(self) -> None:
        """Take note until the context ends, also while a failure is reported, when torchrun sends SIGTERM."""
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # by nohup
                self.previous[number] = signal.signal(number, self._note)

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number, frame):
        if not self.signal:
            self.signal, self.when = number, time.monotonic()
        elif number == signal.SIGINT:
            self.patience -= 1
            if self.patience <= 0 and time.monotonic() - self.when > self.AT_ONCE:
                raise KeyboardInterrupt
