"""Costs of an exchange, and what overlap and bfloat16 save of it when it is slow.

    torchrun --standalone --nproc_per_node=2 -m bench.speed.exchange [--batch 128] [--rounds 5]

The split of alexnet.yaml in four ways that take turns: as it is, with exchange.overlap, with
exchange.precision bfloat16, with both. Each over the link that there is, and over links that are made to take
as long as their bandwidth says: what was sent is not to be had before that. Prints milliseconds of a step and
writes bench/results/exchange-cpu.json or -gpu.json; on the CPU, the table of docs/speed.md is rewritten, too.
Some minutes on two cores, a thread for each rank.
"""

import argparse
import itertools
import time
from functools import partial

import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory.predict import parts_of, random_batch
from alexnet2gpu.model.device import gpus
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.machine import cores
from alexnet2gpu.ranks.torchrun import grid_of
from bench.results import redraw, write
from bench.speed.tables import PAGE, slow_links
from bench.turns import clocked, take_turns

WAYS = {
    "as it is": [],
    "overlap": ["exchange.overlap=true"],
    "bfloat16": ["exchange.precision=bfloat16"],
    "both": ["exchange.overlap=true", "exchange.precision=bfloat16"],
}
BATCH, ROUNDS = 128, 5
LINKS = {"the link there is": None, "1 GB/s": 1e9, "125 MB/s": 1.25e8}


class Slow:
    """Makes links take as long as `bandwidth`, in bytes a second, says; None: as they are."""

    bandwidth, on_gpu = None, bool(gpus())

    def down(self, link):
        for name in ("start_gather", "start_scatter"):
            setattr(link, name, partial(self._start, link, getattr(link, name)))

    def _start(self, link, start, *args):
        self._synchronize()
        before = sum(link.sent.values())
        wait = start(*args)
        sent = sum(link.sent.values()) - before
        due = time.perf_counter() + (sent / self.bandwidth if self.bandwidth else 0)
        return partial(self._wait, wait, due)

    def _wait(self, wait, due):
        received = wait()
        self._synchronize()
        time.sleep(max(0, due - time.perf_counter()))
        return received

    def _synchronize(self):
        if self.on_gpu:
            torch.cuda.synchronize()


def stepper(settings, ranks, batch, slow):
    """A function that does a step and gives its seconds."""
    config = load_config("configs/alexnet.yaml", [f"train.batch={batch}", *settings])
    (model, _, optimizer), batch_ = parts_of("split", config, ranks), random_batch(config, ranks)
    for link in ranks.links:
        slow.down(link)
    update = partial(train_step, model, optimizer, *batch_, how_of(config))
    seconds = clocked(update, slow.on_gpu)

    def step():
        model.seed_dropout(0, 0, 0)
        ranks.wait()
        return seconds()

    return step


def measured(ranks, slow, batch, rounds):
    """Link and way -> seconds of a step in each round. A function of its own, since models must be gone when
    the ranks end."""
    steps = {way: stepper(more, ranks, batch, slow) for way, more in WAYS.items()}

    def turn(link, way):
        slow.bandwidth = LINKS[link]
        return max(ranks.gather(steps[way]()))

    cases = itertools.product(LINKS, WAYS)
    return take_turns({", ".join(case): partial(turn, *case) for case in cases}, rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    slow = Slow()
    with Ranks(grid_of(2, "split"), max(1, cores() // 2)) as ranks:
        seconds = measured(ranks, slow, args.batch, args.rounds)
        if ranks.grid.rank == 0:
            drawn = slow_links({"seconds": seconds})
            print(drawn)
            usual = (args.batch, args.rounds) == (BATCH, ROUNDS)
            if usual:
                write("exchange", batch=args.batch, seconds=seconds)
            if usual and not slow.on_gpu:
                redraw(PAGE, {"exchange": drawn})


if __name__ == "__main__":
    main()
