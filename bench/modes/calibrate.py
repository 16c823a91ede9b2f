"""What a link really does: seconds of a swap (alexnet2gpu/ranks/link.py) and of gloo's collectives, of 16 KiB
to 64 MiB, and the line  seconds = alpha + bytes / bandwidth  through them.

    python -m bench.modes links [--ranks 2] [--links none 125 25]

Bytes are those that one rank has to send (KINDS); of a reduce_scatter gloo sends twice as many, as of an
all_reduce.
The line has the least sum of squared *relative* errors, since seconds span four orders of magnitude. Prints a
table and writes bench/results/modes-links-cpu.json, one part for each link.

    python -m bench.modes.calibrate     one rank: "swap 16384 5" on stdin gives the seconds of each of five
"""

import argparse
import json
import statistics
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from alexnet2gpu.ranks.cost import fit
from alexnet2gpu.ranks.link import Link, all_gather, reduce_scatter
from alexnet2gpu.ranks.machine import keep_freed_memory
from bench.modes.links import PAYLOAD, Links, said
from bench.modes.options import add_links, on_cpu
from bench.results import origin, read_json, results_file, table, write_json
from bench.team import Team

SIZES = [4**power * 2**14 for power in range(7)]  # 16 KiB to 64 MiB
KINDS = {  # bytes that a rank has to send, in parts of the size
    "swap": lambda ranks: ranks - 1,
    "all_reduce": lambda ranks: 2 * (ranks - 1) / ranks,
    "all_gather": lambda ranks: ranks - 1,
    "reduce_scatter": lambda ranks: (ranks - 1) / ranks,
}
SECONDS, MOST = 1.0, 100  # for each size, and repeats
FILE = results_file("modes-links", on_gpu=False)


def serve():
    """A rank: what it is told on stdin."""
    keep_freed_memory()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    link = Link(dist.group.WORLD)
    kinds = {
        "swap": lambda own: link.start_gather(own)(),
        "all_reduce": dist.all_reduce,
        "all_gather": lambda own: all_gather(own.new_empty(link.size, own.numel()), own),
        "reduce_scatter": lambda own: reduce_scatter(own.new_empty(own.numel() // link.size), own.flatten()),
    }
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        kind, size, repeats = line.split()
        own, seconds = torch.zeros(1, int(size) // 4), []
        for _ in range(int(repeats)):
            dist.barrier()
            start = time.perf_counter()
            kinds[kind](own)
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds}), flush=True)


def calibrate(links):
    """Of swap and all_reduce: sizes, bytes that a rank sends, seconds of each repeat (of the slowest rank),
    alpha in seconds and bandwidth in bytes a second."""
    command = [sys.executable, "-m", "bench.modes.calibrate"]
    team = Team("calibration", links.commands(command), links.environments())
    try:
        team.hear()
        return {kind: measured(team, kind, links.ranks) for kind in KINDS}
    finally:
        team.close()


def measured(team, kind, ranks):
    """The same of one kind."""

    def clock(size, repeats):
        each = (answer["seconds"] for answer in team.turn(f"{kind} {size} {repeats}"))
        return [max(together) for together in zip(*each)]

    sent, seconds = [KINDS[kind](ranks) * size for size in SIZES], []
    for size in SIZES:
        once = max(clock(size, 2))  # also the warm-up
        seconds.append(clock(size, min(MOST, max(3, int(SECONDS / once)))))
    line = fit(list(zip(sent, map(statistics.median, seconds))))
    own = {"sizes": SIZES, "sent": sent, "seconds": seconds}
    return own | {"alpha": line.alpha, "bandwidth": line.bandwidth}


def lines(name, found):
    """Of the table: a line for each kind."""
    for kind, line in found.items():
        rates = [sent / statistics.median(each) for sent, each in zip(line["sent"], line["seconds"])]
        fitted = [f"{1000 * line['alpha']:.2f}", f"{line['bandwidth'] / 1e6:.1f}"]
        yield [name, kind, *(f"{rate / 1e6:.1f}" for rate in rates), *fitted]


def main(words):
    parser = argparse.ArgumentParser(prog="bench.modes links", description=__doc__.split("\n")[0])
    add_links(parser)
    args = parser.parse_args(words)
    on_cpu()
    parts, rows = read_json(FILE), []
    for rate in args.links:
        try:
            with Links(args.ranks, rate) as links:
                found = calibrate(links)
        except (ValueError, EOFError) as error:
            sys.exit(str(error))
        name = f"{args.ranks} ranks, {said(rate)}"
        most = None if rate is None else PAYLOAD * rate
        parts[name] = {**origin(), "ranks": args.ranks, "rate": rate, "most": most, "found": found}
        write_json(FILE, parts)
        rows += lines(name, found)
    head = [f"{size // 1024} KiB" if size < 2**20 else f"{size // 2**20} MiB" for size in SIZES]
    print(table(["", "MB/s sent by a rank", *head, "alpha, ms", "bandwidth, MB/s"], rows))


if __name__ == "__main__":
    serve()
