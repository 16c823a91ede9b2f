"""Contenders, each one or more processes of rank.py, which take turns."""

import os
import statistics
import sys
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.device import gpus
from alexnet2gpu.ranks.machine import cores
from bench.processes import environment_of
from bench.team import Team
from bench.turns import clocked, take_turns

ON_GPU = bool(gpus())


class Spec(NamedTuple):
    """What a contender runs: arguments of rank.py, and the number of ranks."""

    name: str
    config: str = "configs/alexnet.yaml"
    ranks: int = 1
    precision: str = "float32"
    allocator: str = "kept"


class Contender(Team):
    """Processes of rank.py, as many as there are ranks, that share `threads`."""

    def __init__(self, name, spec, batch, threads):
        self.network = load_config(spec.config).model
        command = [sys.executable, "-m", "bench.speed.rank", spec.name, spec.config, str(batch)]
        command += [str(max(1, threads // spec.ranks)), spec.precision, spec.allocator]
        super().__init__(name, [command] * spec.ranks, self._environments(spec.ranks))

    def _environments(self, world):
        """Each rank's, as torchrun makes it; of one alone, nothing more than there is."""
        if world == 1:
            return [os.environ]
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        return [os.environ | environment_of(rank, world, self.store.port) for rank in range(world)]

    def turn(self, steps):
        """So many steps, by all ranks. Returns: what the first says."""
        return super().turn(steps)[0]


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
