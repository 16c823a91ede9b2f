"""Contenders of bench/run.py, each one or more processes of rank.py, and the rounds in which they
take turns."""

import json
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist
from modes import REPOSITORY

from alexnet2gpu.config.load import load_config
from alexnet2gpu.ranks.machine import cores

ON_GPU = torch.cuda.is_available()


class Contender:
    """Processes of rank.py, as many as there are ranks, that share `threads`."""

    def __init__(self, name, what, config, ranks, precision, allocator, batch, threads):
        self.name, self.batch, self.network = name, batch, load_config(config).model
        command = [sys.executable, str(REPOSITORY / "bench" / "rank.py"), what, config, str(batch)]
        command += [str(max(1, threads // ranks)), precision, allocator]
        several = ranks > 1
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.store = store  # as long as the ranks live
        self.ranks = [
            subprocess.Popen(
                command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, **(place(rank, ranks, store.port) if several else {})},
            )
            for rank in range(ranks)
        ]  # fmt: skip
        self.rounds = []

    def starts(self):
        """Whether it does; waits for it."""
        try:
            self.hear()
        except EOFError as error:
            print(f"{error}: it is left out")
            self.close()
            return False
        return True

    def turn(self, steps):
        """So many steps, by all ranks. Returns: what the first says."""
        for rank in self.ranks:
            rank.stdin.write(f"{steps}\n")
            rank.stdin.flush()
        return self.hear()

    def hear(self):
        """The answers of all ranks; the first one's."""
        answers = []
        for rank in self.ranks:
            line = rank.stdout.readline()
            while line and not line.startswith("{"):
                line = rank.stdout.readline()
            if not line:
                raise EOFError(f"{self.name}: a rank has ended")
            answers.append(json.loads(line))
        return answers[0]

    def close(self):
        for rank in self.ranks:
            rank.kill()
            rank.wait()


def place(rank, world, port):
    """A rank's environment, as torchrun makes it."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip


class Calm:
    """Whether a matrix product takes as long as it did at best."""

    def __init__(self):
        self.a, self.best = torch.randn(1024, 1024), float("inf")
        self.quiet()

    def quiet(self):
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            self.a @ self.a
            seconds.append(time.perf_counter() - start)
        found = statistics.median(seconds)
        self.best = min(self.best, found)
        return ON_GPU or found < 1.2 * self.best


def race(contenders, batch, rounds, steps):
    """Rounds in which all take turns, each time another one first. Returns: the contenders, with
    what they said in each round; without those that cannot start."""
    threads, calm = cores(), Calm()
    runners, busy = [], 0
    try:
        for name, spec in contenders.items():
            runners.append(Contender(name, *spec, batch, threads))
        runners = [runner for runner in runners if runner.starts()]
        if not runners:
            sys.exit("no contender has started")
        while min(len(runner.rounds) for runner in runners) < rounds:
            runners = runners[1:] + runners[:1]
            said = [runner.turn(steps) for runner in runners]
            if not calm.quiet() and busy < rounds:
                busy += 1  # done again
                continue
            for runner, answer in zip(runners, said):
                runner.rounds.append(answer)
    finally:
        for runner in runners:
            runner.close()
    if busy:
        print(f"{busy} rounds were done again: the machine was busy")
    return sorted(runners, key=lambda runner: list(contenders).index(runner.name))
