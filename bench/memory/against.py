"""Predictions against torch's allocator, of networks that nobody chose.

    python -m bench.memory.against [networks] [modes] [--number 300]

    networks    random legal networks (networks.py) on one device
    modes       others, split, under DDP and in a grid, on ranks of gloo that stay

Each part goes to bench/results/memory-against-cpu.json, and from there into docs/memory.md. A quarter of
an hour on two cores.
"""

import argparse

import torch

from alexnet2gpu.memory.any_mode import step_on_rank
from alexnet2gpu.memory.plan import Case
from bench.memory.cases import PAGE, against_tables
from bench.memory.networks import network
from bench.processes import Pool
from bench.results import origin, read_json, redraw, results_file, write_json

MODES = ("split", "ddp", "grid")


def networks(number):
    """Of each network, the error of its predicted peak."""
    return [_compared(Case("single", network(n), 2), None, n) for n in range(number)]


def modes(number):
    """Of `number` / 5 other networks, of 2 or 3 towers, the same in modes of several ranks."""
    found, pool = [], Pool()
    try:
        for n in range(number // 5):
            config = network(10_000 + n, towers=2 + n % 2)
            mode = MODES[n % len(MODES)]
            found.append(_compared(Case(mode, config, 2), pool, 10_000 + n))
    finally:
        pool.close()
    return found


def _compared(case, pool, number):
    task = case.mode, case.config, None
    entries = pool(step_on_rank, case.number, *task, patience=120) if pool else [step_on_rank(*task)]
    peaks = [entry["measured"]["peak"] for entry in entries]
    expected = case.predict(on_gpu=False)
    errors = [expected.peak / peak - 1 for peak in peaks]
    scratch = expected.bytes["scratch"]
    print(number, case.mode, case.config.train.precision, f"{max(errors, key=abs):+.3%}", flush=True)
    return {"network": number, "mode": case.mode, "peaks": peaks, "errors": errors, "scratch": scratch}


PARTS = {"networks": networks, "modes": modes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--number", type=int, default=300, help="of networks on one device")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"{', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    file = results_file("memory-against", on_gpu=False)
    found = read_json(file)
    for part in args.parts or PARTS:
        threads = torch.get_num_threads()
        found[part] = {**origin(), "threads": threads, "found": PARTS[part](args.number)}
        write_json(file, found)
    redraw(PAGE, against_tables(found))


if __name__ == "__main__":
    main()
