"""Contenders, each one or more processes of rank.py, which take turns."""

import json
import os
import statistics
import subprocess
import sys
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.device import gpus
from alexnet2gpu.ranks.machine import cores
from bench.results import REPOSITORY
from bench.turns import clocked, take_turns

ON_GPU = bool(gpus())


class Spec(NamedTuple):
    """What a contender runs: arguments of rank.py, and the number of ranks."""

    name: str
    config: str = "configs/alexnet.yaml"
    ranks: int = 1
    precision: str = "float32"
    allocator: str = "kept"


class Contender:
    """Processes of rank.py, as many as there are ranks, that share `threads`."""

    def __init__(self, name, spec, batch, threads):
        self.name, self.network = name, load_config(spec.config).model
        command = [sys.executable, "-m", "bench.speed.rank", spec.name, spec.config, str(batch)]
        command += [str(max(1, threads // spec.ranks)), spec.precision, spec.allocator]
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        pipes = {"text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.ranks = []
        for rank in range(spec.ranks):
            own = os.environ | environment(rank, spec.ranks, self.store.port)
            self.ranks.append(subprocess.Popen(command, cwd=REPOSITORY, env=own, **pipes))

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
            line = next((line for line in rank.stdout if line.startswith("{")), None)
            if line is None:
                raise EOFError(f"{self.name}: a rank has ended")
            answers.append(json.loads(line))
        return answers[0]

    def close(self):
        for rank in self.ranks:
            rank.kill()
            rank.wait()


def environment(rank, world, port):
    """A rank's environment, as torchrun makes it; of one alone, nothing."""
    if world == 1:
        return {}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    return {key: str(value) for key, value in (numbers | store).items()}


class Calm:
    """Whether a matrix product takes longer than it did at best."""

    def __init__(self):
        a, self.best = torch.randn(1024, 1024), float("inf")
        self.product = clocked(lambda: a @ a)
        self.disturbed()

    def disturbed(self):
        found = statistics.median(self.product() for _ in range(10))
        self.best = min(self.best, found)
        return not ON_GPU and found >= 1.2 * self.best


def race(contenders, batch, rounds, steps):
    """Name -> batch, network, and what the contender said in each round; without those that cannot start."""
    threads, calm, runners = cores(), Calm(), []
    try:
        for name, spec in contenders.items():
            runners.append(Contender(name, spec, batch, threads))
        started = {runner.name: runner for runner in runners if runner.starts()}
        if not started:
            sys.exit("no contender has started")
        turns = {name: partial(runner.turn, steps) for name, runner in started.items()}
        found = take_turns(turns, rounds, warm_up=0, disturbed=calm.disturbed)
    finally:
        for runner in runners:
            runner.close()
    return {name: (batch, started[name].network, said) for name, said in found.items()}
