"""Ranks watch each other: whoever raises, dies or hangs ends all, with one message.

A thread of each rank tells the others, once a second, that it is there, through the store by which the ranks
met (torchrun's own, which outlives them). A rank is given up if

    it raised                           at once: it says so itself
    it was killed                       when communication fails, or after SILENT / 3 seconds
    it is stopped, or its machine gone  after SILENT seconds without a word
    all are there, none gets on         after STUCK seconds, or five times the longest step; before the third
                                        step after START seconds

The first to give up a rank says why, for all; everybody else ends without a word. A rank whose launcher was
killed ends too. Waiting ranks may sit inside a call that never returns, so it is a thread that ends the
process; and since the store may not answer, a second one looks at the clock.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback

from alexnet2gpu.faults import processes
from alexnet2gpu.faults.mistakes import LAUNCHER, VERDICT, one_line
from alexnet2gpu.ranks.machine import out_of_memory
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.store import store

EVERY = 1.0  # seconds between two words
SILENT = 15.0  # seconds
STUCK = 50.0
START = 300.0  # for ranks to arrive, and for the first steps, which may have to compile


class Watch:
    """A context manager, around all that a rank does with others. An error in it ends this rank and the
    others with exit status 2 after ValueError or OSError, as of any mistake, 130 after Ctrl-C, else 1. Alone,
    a rank has nobody to watch, and errors end it in one line too."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.ticks, self.longest, self.ticked = 0, 0.0, None
        self.moved = self.answered = time.monotonic()  # when any rank got on; the store spoke
        self.over = threading.Event()
        self.ending = threading.RLock()  # held by the thread that ends the process
        self.heard = {}  # rank -> its last word, and when it came

    def tick(self) -> None:
        """The rank gets on: called after each step."""
        now = time.monotonic()
        if self.ticked is not None and now - self.ticked < self._limit():  # else it was stopped
            self.longest = max(self.longest, now - self.ticked)
        self.ticks, self.ticked, self.moved = self.ticks + 1, now, now

    def _limit(self):
        """Seconds without a step after which ranks are stuck."""
        return START if self.ticks < 3 else max(STUCK, 5 * self.longest)

    def __enter__(self):
        works = [self._look_at_the_clock]
        if self.grid.world > 1:
            self.store = self._arrive()
            works.append(self._talk)
        self.threads = [threading.Thread(target=work, name="watch", daemon=True) for work in works]
        for thread in self.threads:
            thread.start()
        return self

    def _arrive(self):
        until = time.monotonic() + START
        while True:
            try:
                return store()
            except RuntimeError as error:
                self._check_launcher()
                if time.monotonic() > until:
                    self._end(f"rank {self.grid.rank} cannot reach others: {one_line(error)}", 2)

    def __exit__(self, kind, error, trace):
        if self.grid.world == 1 or error is None:
            self.over.set()
            for thread in self.threads:  # _talk says that this rank needs nobody any more
                thread.join(timeout=SILENT)
        if error is None or isinstance(error, SystemExit):
            return
        mistake = isinstance(error, ValueError | OSError)
        expected = mistake or isinstance(error, FloatingPointError | KeyboardInterrupt)
        status = 2 if mistake else 130 if kind is KeyboardInterrupt else 1
        said = one_line(error)
        if out_of_memory(error):
            expected = True
            said += ": make train.batch smaller: launch/memory.py --budget finds how large it may be"
        report = "" if expected else "".join(traceback.format_exception(error))
        if self.grid.world == 1:
            _say(said, report)
            raise SystemExit(status) from None
        if processes.communication_failed(error):
            self._let_others_say()
        self._give_up(f"rank {self.grid.rank}: {said}", status, report)

    def _let_others_say(self):
        """Communication has failed: end with the verdict of another rank, or with one on it if it is gone."""
        until = time.monotonic() + SILENT + 2 * EVERY
        while time.monotonic() < until:
            for rank, (word, _) in list(self.heard.items()):
                if processes.gone(word):
                    time.sleep(EVERY)  # had it raised, it would have said so by now
                    self._give_up(f"{_name(rank, word)} was killed or has crashed", 1)
            with contextlib.suppress(RuntimeError):
                self._obey()
            time.sleep(0.1)  # meanwhile the threads see who is silent

    def _talk(self):
        word = {"host": socket.gethostname(), "pid": os.getpid(), "count": 0}
        last = time.monotonic()
        while True:
            ended = self.over.wait(EVERY if word["count"] else 0)
            word |= {"count": word["count"] + 1, "done": ended, "ticks": self.ticks}
            word["at"] = processes.whereabouts()
            try:
                self.store.set(str(self.grid.rank), json.dumps(word))
                if ended:
                    return
                self._obey()
                late = time.monotonic() - last > EVERY + SILENT / 3  # this rank stood still
                self._listen(late)
                self.answered = time.monotonic()
                self._judge()
            except RuntimeError:  # the store does not answer: torchrun may be stopped for a while
                if ended:
                    return
                if "TORCHELASTIC_USE_AGENT_STORE" in os.environ:  # else rank 0 has it, and is gone
                    with contextlib.suppress(RuntimeError):
                        self.store = store()
            last = time.monotonic()

    def _listen(self, late):
        now = time.monotonic()
        others = [str(rank) for rank in range(self.grid.world) if rank != self.grid.rank]
        if len(self.heard) < len(others):  # not all have started yet
            others = [rank for rank in others if self.store.check([rank])]
        for rank, word in zip(map(int, others), map(json.loads, self.store.multi_get(others))):
            before, since = self.heard.get(rank, ({}, now))
            self.heard[rank] = word, now if word != before or late else since
            if word["ticks"] != before.get("ticks") or late:
                self.moved = now

    def _judge(self):
        for rank, (word, since) in self.heard.items():
            silent = 0 if word["done"] else time.monotonic() - since
            if silent > SILENT / 3 and processes.gone(word):  # had it raised, it would have said so
                self._give_up(f"{_name(rank, word)} was killed or has crashed", 1)
            if silent > SILENT:
                what = f"has not answered for {SILENT:.0f} s: stopped, or its machine is gone"
                self._give_up(f"{_name(rank, word)} {what}", 1)

    def _look_at_the_clock(self):
        """What is seen without the store. Alone, a rank is never stuck, only slow."""
        last = time.monotonic()
        while not self.over.wait(EVERY):
            self._check_launcher()
            now = time.monotonic()
            if now - last > EVERY + SILENT / 3:
                self.moved = now
            last = now
            limit = self._limit()
            if self.grid.world > 1 and now - self.moved > limit:
                at = {rank: word["at"] for rank, (word, _) in self.heard.items()}
                at[self.grid.rank] = processes.whereabouts()
                where = ", ".join(f"rank {rank} is at {at[rank]}" for rank in sorted(at))
                self._give_up(f"no step was done in {limit:.0f} s: {where}", 1)

    def _check_launcher(self):
        if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != LAUNCHER:
            said = f"rank {self.grid.rank}: torchrun is gone, so this rank ends too"
            self._end(said if self.grid.local_rank == 0 else "", 1)

    def _obey(self):
        """End, if another rank has said why."""
        if self.store.check([VERDICT]):
            self._end("", json.loads(self.store.get(VERDICT))["status"])

    def _give_up(self, text, status, report=""):
        """End, for this reason if no other rank was first with another."""
        mine, first = json.dumps({"rank": self.grid.rank, "status": status}), True
        self.ending.acquire(timeout=SILENT)  # or another thread would obey this one's verdict,
        if time.monotonic() - self.answered < SILENT:  # and end the process before it is told
            with contextlib.suppress(RuntimeError):
                first = self.store.compare_set(VERDICT, "", mine).decode() == mine
        self._end(text if first else "", status, report if first else "")

    def _end(self, text, status, report=""):
        """End the process, whatever its threads are doing."""
        self.ending.acquire(timeout=SILENT)
        try:
            if text:
                _say(text, report)
            sys.stdout.flush()
        finally:
            os._exit(status)


def _name(rank, word):
    return f"rank {rank} (pid {word['pid']} on {word['host']})"


def _say(text, report=""):
    print(f"\n{report}error: {text}", file=sys.stderr, flush=True)  # below a progress bar
