"""Ranks watch each other: whoever raises, dies or hangs ends all, with one message.

A thread of each rank tells the others, once a second, that it is there, through the store by which
the ranks met (torchrun's own, which outlives them). A rank is given up if

    it raised                           at once: it says so itself
    it was killed                       when communication with it fails, or after SILENT seconds
    it is stopped, or its machine gone  after SILENT seconds without a word
    all are there, none gets on         after STUCK seconds, or five times the longest step

The first to give up a rank says why, for all; everybody else ends without a word. A rank whose
launcher was killed ends too. Waiting ranks may sit inside a call that never returns, so it is the
thread that ends the process.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback

from alexnet2gpu import signs
from alexnet2gpu.grid import Grid
from alexnet2gpu.mistakes import LAUNCHER, one_line

EVERY = 1.0  # seconds between two words
SILENT = 15.0  # seconds
STUCK = 50.0
ARRIVAL = 300.0  # seconds, of ranks when they start
VERDICT = "verdict"


class Watch:
    """As a context manager, around all that a rank does with others. An error in it ends this rank
    and the others. Alone, a rank has nobody to watch, and errors end it in one line too.

    Exit status: 2 after ValueError or OSError, as of any mistake (mistakes.py), else 1.
    """

    def __init__(self, grid: Grid):
        self.grid = grid
        self.steps, self.longest, self.moved = 0, 0.0, None
        self.over = threading.Event()
        self.heard = {}  # rank -> its last word, and when it came

    def tick(self) -> None:
        """The rank gets on: called after each step."""
        now = time.monotonic()
        if self.moved is not None and self.steps > 1:  # the first may have something to compile
            self.longest = max(self.longest, now - self.moved)
        self.steps, self.moved = self.steps + 1, now

    def __enter__(self):
        if self.grid.world > 1:
            self.store = self._arrive()
            self.thread = threading.Thread(target=self._keep_watch, name="watch", daemon=True)
            self.thread.start()
        return self

    def _arrive(self):
        until = time.monotonic() + ARRIVAL
        while True:
            try:
                return signs.store()
            except RuntimeError as error:
                self._check_launcher()
                if time.monotonic() > until:
                    raise ValueError(f"rank {self.grid.rank} cannot reach the others: "
                                     f"{one_line(error)}") from None  # fmt: skip

    def __exit__(self, kind, error, trace):
        if self.grid.world > 1 and error is None:
            self.over.set()
            self.thread.join()  # it says that this rank needs nobody any more
        if error is None or isinstance(error, SystemExit):
            return
        mistake = isinstance(error, ValueError | OSError)
        status = 2 if mistake else 130 if kind is KeyboardInterrupt else 1
        if not mistake and not isinstance(error, ArithmeticError | KeyboardInterrupt):
            self._let_others_say(error)
            if not signs.of_memory(error):
                traceback.print_exception(error)
        if self.grid.world == 1:
            _say(one_line(error))
            raise SystemExit(status) from None
        self._give_up(f"rank {self.grid.rank}: {one_line(error)}", status)

    def _let_others_say(self, error):
        """If communication has failed, it is for another's sake: end with that rank's verdict, or
        with one on it if it is gone or silent."""
        until = time.monotonic() + (SILENT + 2 * EVERY if signs.of_communication(error) else 0)
        while time.monotonic() < until:
            for rank, (word, _) in list(self.heard.items()):
                if signs.gone(word):
                    time.sleep(EVERY)  # had it raised, it would have said so by now
                    self._obey()
                    self._give_up(f"{_name(rank, word)} was killed or has crashed", 1)
            self._obey()
            time.sleep(0.1)  # meanwhile the thread sees who is silent

    def _keep_watch(self):
        word = {"host": socket.gethostname(), "pid": os.getpid(), "count": 0}
        last = time.monotonic()
        while True:
            ended = self.over.wait(EVERY if word["count"] else 0)
            word |= {"count": word["count"] + 1, "done": ended, "steps": self.steps,
                     "place": signs.place()}  # fmt: skip
            self._check_launcher()
            try:
                self.store.set(str(self.grid.rank), json.dumps(word))
                if ended:
                    return
                self._obey()
                late = time.monotonic() - last > EVERY + SILENT / 3  # this rank stood still
                self._listen(late)
                self._judge()
            except RuntimeError:  # the store does not answer: torchrun may be stopped for a while
                if ended:
                    return
                self._reconnect()
            last = time.monotonic()

    def _listen(self, late):
        now = time.monotonic()
        others = [str(rank) for rank in range(self.grid.world) if rank != self.grid.rank]
        if len(self.heard) < len(others):  # not all have started yet
            others = [rank for rank in others if self.store.check([rank])]
        for rank, word in zip(map(int, others), map(json.loads, self.store.multi_get(others))):
            before, since = self.heard.get(rank, (None, now))
            self.heard[rank] = word, now if word != before or late else since
        if late and self.moved is not None:
            self.moved = now

    def _judge(self):
        now = time.monotonic()
        for rank, (word, since) in self.heard.items():
            if not word["done"] and now - since > SILENT:
                self._give_up(f"{_name(rank, word)} has not answered for {SILENT:.0f} s: stopped, "
                              "or its machine is gone", 1)  # fmt: skip
        limit = max(STUCK, 5 * self.longest)
        if self.moved is not None and now - self.moved > limit:
            here = {self.grid.rank: signs.place()}
            places = here | {rank: word["place"] for rank, (word, _) in self.heard.items()}
            where = ", ".join(f"rank {rank} is at {places[rank]}" for rank in sorted(places))
            self._give_up(f"no step was done in {limit:.0f} s: {where}", 1)

    def _check_launcher(self):
        if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != LAUNCHER:
            text = f"rank {self.grid.rank}: torchrun is gone, so this rank ends too"
            _end(text if self.grid.local_rank == 0 else "", 1)

    def _reconnect(self):
        if "TORCHELASTIC_USE_AGENT_STORE" in os.environ:  # else rank 0 has it, and is gone
            with contextlib.suppress(RuntimeError):
                self.store = signs.store()

    def _obey(self):
        """End, if another rank has said why."""
        if self.store.check([VERDICT]):
            _end("", json.loads(self.store.get(VERDICT))["status"])

    def _give_up(self, text, status):
        """End, for this reason if nobody was first with another."""
        mine = json.dumps({"rank": self.grid.rank, "status": status, "text": text})
        try:
            first = self.store.compare_set(VERDICT, "", mine).decode() == mine
        except RuntimeError:
            first = True
        _end(text if first else "", status)


def tell(text: str, status: int) -> None:
    """Let ranks that are waiting for this one end, before it has joined them: mistakes.py."""
    with contextlib.suppress(RuntimeError, ValueError):
        mine = json.dumps({"rank": None, "status": status, "text": text})
        signs.store().compare_set(VERDICT, "", mine)


def _name(rank, word):
    return f"rank {rank} (pid {word['pid']} on {word['host']})"


def _end(text, status):
    """End the process, whatever its threads are doing."""
    if text:
        _say(text)
    sys.stdout.flush()
    os._exit(status)


def _say(text):
    print(f"\nerror: {text}", file=sys.stderr, flush=True)  # below a progress bar
