"""Contenders that take turns, so that a machine whose speed drifts is fair to all."""

import time


def take_turns(contenders, rounds, warm_up=1, disturbed=lambda: False):
    """Name -> what each of `contenders`, by name a function, gave in each round. Every round
    another begins; the first `warm_up` rounds do not count, and one after which the machine is
    `disturbed` is done again, at most as often as there are rounds."""
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


def clocked(work, wait=lambda: None):
    """A function that gives the seconds that `work` takes; `wait` is for a GPU."""

    def seconds():
        start = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - start

    return seconds
