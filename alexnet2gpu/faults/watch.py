"""Ranks watch each other: whoever raises, dies or hangs ends all, with one message.

A thread of each rank tells the others, once a second, that it is there, through the store by which the ranks
met (torchrun's own, which outlives them). A rank is given up if

    it raised                           at once: it says so itself
    it was killed                       when communication fails, or after SILENT / 3 seconds
    it is stopped, or its machine gone  after SILENT seconds without a word
    all are there, none gets on         after STUCK seconds, or five times the longest step; at first START

The first to give up a rank says why, for all; others end without a word. If the store is silent too, each
gives up its machine. A rank whose launcher was killed is sent SIGTERM, and ended LEAVE seconds later. Waiting
ranks may sit inside a call that never returns, so it is a thread that ends the process; and since the store
may not answer, a second one looks at the clock.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback

from alexnet2gpu.faults import processes
from alexnet2gpu.faults.mistakes import LAUNCHER, VERDICT, is_mistake, one_line
from alexnet2gpu.faults.screen import note_error, show_error
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.store import store

EVERY = 1.0  # seconds between two words
SILENT = 15.0  # seconds
STUCK = 50.0
LEAVE = 30.0  # as torchrun itself gives ranks
START = 300.0  # for ranks to arrive, and for the first steps, which may have to compile


class Watch:
    """A context manager, around all that a rank does with others, or alone. An error in it ends all in one
    line, with exit status 2 after a mistake, 130 after Ctrl-C, else 1."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.ticks, self.longest, self.ticked = 0, 0.0, None
        self.moved = self.answered = time.monotonic()  # when any rank got on; the store spoke
        self.over = threading.Event()
        self.ending = threading.RLock()  # held by the thread that ends the process
        self.heard = {}  # rank -> its last word, and when it came
        self.threads, self.orphaned = [], None  # when the launcher was found to be gone

    def tick(self) -> None:
        """The rank gets on: called after each step."""
        now = time.monotonic()
        if self.ticked is not None and now - self.ticked < self._limit():  # else it was stopped
            self.longest = max(self.longest, now - self.ticked)
        self.ticks, self.ticked, self.moved = self.ticks + 1, now, now

    def _limit(self):
        """Seconds without a step after which ranks are stuck; or are taken for it, if nobody can tell."""
        if self._said_of_the_store():
            return max(2 * SILENT, 2 * self.longest)
        return START if self.ticks < 3 else max(STUCK, 5 * self.longest)

    def __enter__(self):
        works = [self._look_at_the_clock]
        if self.grid.world > 1:
            self.store = self._arrive()
            works.append(self._talk)
        try:
            for work in works:
                thread = threading.Thread(target=work, name="watch", daemon=True)
                thread.start()
                self.threads.append(thread)
        except RuntimeError as error:
            self.__exit__(RuntimeError, error, None)
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
        status = 2 if is_mistake(error) else 130 if kind is KeyboardInterrupt else 1
        is_bug = status == 1 and kind is not FloatingPointError
        report = "".join(traceback.format_exception(error)) if is_bug else ""
        if self.grid.world == 1:
            show_error(one_line(error), report)
            raise SystemExit(status) from None
        said = f"rank {self.grid.rank}: {one_line(error)}"
        if processes.communication_failed(error):
            self._let_others_say()
            said = self._said_of_the_store() or said
        self._give_up(said, status, report)

    def _let_others_say(self):
        """Communication has failed: end with the verdict of another rank, or with one on it if it is gone."""
        until = time.monotonic() + SILENT + 2 * EVERY
        while time.monotonic() < until:
            with contextlib.suppress(RuntimeError):
                self._obey()
            self._judge(EVERY)
            time.sleep(0.1)

    def _said_of_the_store(self):
        """That its machine is gone, if it has been silent for so long; else nothing."""
        silent, machine = time.monotonic() - self.answered, os.environ.get("MASTER_ADDR")
        said = f"machine {machine}, which has the store, has not answered for {silent:.0f} s"
        return f"rank {self.grid.rank}: {said}" if silent > SILENT else ""

    def _talk(self):
        word = {"host": socket.gethostname(), "kernel": processes.kernel(), "pid": os.getpid(), "count": 0}
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
                self._judge(SILENT / 3)
            except RuntimeError:  # the store does not answer: torchrun may be stopped for a while
                if ended or self.orphaned is not None:
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

    def _judge(self, patience):
        for rank, (word, since) in list(self.heard.items()):
            silent = 0 if word["done"] else time.monotonic() - since
            who = f"rank {rank} (pid {word['pid']} on {word['host']})"
            if silent > patience and processes.gone(word):  # had it raised, it would have said so
                self._give_up(f"{who} was killed or has crashed", 1)
            if silent > SILENT:
                self._give_up(f"{who} has not answered for {SILENT:g} s: stopped, or its machine is gone", 1)

    def _look_at_the_clock(self):
        """What is seen without the store. Alone, a rank is never stuck, only slow."""
        last = time.monotonic()
        while not self.over.wait(EVERY):
            self._check_launcher()
            now = time.monotonic()
            if now - last > EVERY + SILENT / 3:  # this rank stood still
                self.moved = self.answered = now
            last = now
            limit = self._limit()
            if self.grid.world > 1 and now - self.moved > limit:
                at = {rank: word["at"] for rank, (word, _) in self.heard.items()}
                at[self.grid.rank] = processes.whereabouts()
                where = ", ".join(f"rank {rank} is at {at[rank]}" for rank in sorted(at))
                self._give_up(self._said_of_the_store() or f"no step was done in {limit:.0f} s: {where}", 1)

    def _check_launcher(self):
        if "TORCHELASTIC_RUN_ID" not in os.environ or os.getppid() == LAUNCHER:
            return
        if self.orphaned is None:
            self.orphaned = time.monotonic()
            if self.grid.local_rank == 0:
                show_error(f"rank {self.grid.rank}: torchrun is gone, so this rank ends too")
            os.kill(os.getpid(), signal.SIGTERM)  # which signals.py may note: then the run is saved
        elif time.monotonic() - self.orphaned > LEAVE:
            self._end("", 1)

    def _obey(self):
        if self.store.check([VERDICT]):
            verdict = json.loads(self.store.get(VERDICT))
            note_error(verdict["text"])
            self._end("", verdict["status"])

    def _give_up(self, text, status, report=""):
        """End, for this reason if no other rank was first with another."""
        self.ending.acquire(timeout=SILENT)  # or another thread would obey this verdict before it is told
        first, tells = text, self.grid.local_rank == 0  # where the store is silent
        if time.monotonic() - self.answered < SILENT:
            with contextlib.suppress(RuntimeError):
                mine = json.dumps({"rank": self.grid.rank, "status": status, "text": text})
                verdict = self.store.compare_set(VERDICT, "", mine).decode()
                first, tells = json.loads(verdict)["text"], verdict == mine
        note_error(first)
        self._end(text if tells else "", status, report)

    def _end(self, text, status, report=""):
        self.ending.acquire(timeout=SILENT)
        try:
            if text:
                show_error(text, report)
            sys.stdout.flush()
        finally:
            os._exit(status)
