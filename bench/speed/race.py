"""Contenders, each one or more processes of rank.py, which take turns."""

import json
import os
import statistics
import subprocess
import sys
from functools import partial

import torch
import torch.distributed as dist

from alexnet2gpu.config.load import load_config
from alexnet2gpu.ranks.machine import cores
from bench.results import REPOSITORY
from bench.turns import clocked, take_turns

ON_GPU = torch.cuda.is_available()


class Contender:
    """Processes of rank.py, as many as there are ranks, that share `threads`."""

    def __init__(self, name, what, config, ranks, precision, allocator, batch, threads):
        self.name, self.batch, self.network = name, batch, load_config(config).model
        command = [sys.executable, "-m", "bench.speed.rank", what, config, str(batch)]
        command += [str(max(1, threads // ranks)), precision, allocator]
        several = ranks > 1
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.store = store  # as long as the ranks live
        self.ranks = [
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **(environment(rank, ranks, store.port) if several else {})},
            )
            for rank in range(ranks)
        ]

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


def environment(rank, world, port):
    """A rank's environment, as torchrun makes it."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


class Calm:
    """Whether a matrix product takes longer than it did at best."""

    def __init__(self):
        self.a, self.best = torch.randn(1024, 1024), float("inf")
        self.disturbed()

    def disturbed(self):
        product = clocked(lambda: self.a @ self.a)
        found = statistics.median(product() for _ in range(10))
        self.best = min(self.best, found)
        return not ON_GPU and found >= 1.2 * self.best


def race(contenders, batch, rounds, steps):
    """Name -> batch, network, and what the contender said in each round; without those that cannot
    start."""
    threads, calm, runners = cores(), Calm(), []
    try:
        for name, spec in contenders.items():
            runners.append(Contender(name, *spec, batch, threads))
        started = {runner.name: runner for runner in runners if runner.starts()}
        if not started:
            sys.exit("no contender has started")
        turns = {name: partial(runner.turn, steps) for name, runner in started.items()}
        found = take_turns(turns, rounds, warm_up=0, disturbed=calm.disturbed)
    finally:
        for runner in runners:
            runner.close()
    return {name: (batch, started[name].network, said) for name, said in found.items()}
