"""Contenders that take turns, so that a machine whose speed drifts is fair to all."""

import time

import torch


def take_turns(contenders, rounds, warm_up=1, disturbed=lambda: False):
    """Name -> what each of `contenders`, by name a function, gave in each round. Every round another begins;
    the first `warm_up` rounds do not count, and one after which the machine is `disturbed` is done again, at
    most as often as there are rounds."""
    found, order, again = {name: [] for name in contenders}, list(contenders), 0
    while min(map(len, found.values())) < rounds:
        order = order[1:] + order[:1]
        said = {name: contenders[name]() for name in order}
        if warm_up:
            warm_up -= 1
        elif again < rounds and disturbed():
            again += 1
        else:
            for name, answer in said.items():
                found[name].append(answer)
    if again:
        print(f"{again} rounds were done again: the machine was busy")
    return found


def clocked(work, on_gpu=False):
    """A function that gives the seconds that `work` takes; `on_gpu`, until the GPU has done it."""

    def seconds():
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return seconds
