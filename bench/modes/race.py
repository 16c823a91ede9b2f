"""The race of the modes: over links of so many MB/s (links.py), steps in turns, what is sent counted.

    python -m bench.modes race [--ranks 2] [--modes single single:1 split ddp ...] [--batches 128 32]
        [--links none 125 25] [--config configs/alexnet.yaml] [--rounds 5] [--steps 2] [--set KEY=VALUE]

For each link and batch all contenders live at once and take turns, `--rounds` times, `--steps` steps each: so
a machine whose speed drifts is fair to all. The batch is the global one. Each rank has as many threads as
cores suffice for, at least one; `single` as many as all ranks have together, but no more than there are
cores; MODE:THREADS gives each rank so many. `pace` (rank.py) is one more contender, not shown in the table.

A round's images/s are those of the slowest rank. The ratio is to the better of split and ddp, round by round:
the median, and its 95 % interval by a bootstrap over rounds. MB are what the first rank has sent in a step,
as the kernel counts it, beside the formula (ranks/cost.py), which is for float32.

Prints a table for each link and batch, and writes all raw into bench/results/modes-race-cpu.json.
"""

import argparse
import shutil
import statistics
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet2gpu.config.load import load_config
from alexnet2gpu.ranks.cost import sent
from alexnet2gpu.ranks.machine import cores
from alexnet2gpu.ranks.schedule import TIMED, unsuited
from bench.modes.links import Links, said
from bench.modes.options import add_links, on_cpu
from bench.results import origin, read_json, results_file, table, write_json
from bench.team import Team
from bench.turns import take_turns

FILE = results_file("modes-race", on_gpu=False)
HEAD = ["mode", "threads", "batch", "link", "images/s", "spread", "ratio", "95 %", "MB sent", "formula"]


class Contender(NamedTuple):
    name: str
    mode: str
    ranks: int
    threads: int  # of each rank


def contender(name, ranks):
    """By its name, MODE or MODE:THREADS. Raises: ValueError if there is no such mode."""
    mode, _, threads = name.partition(":")
    if mode not in (*TIMED, "pace") or threads and not threads.isdigit():
        raise ValueError(f"--modes {name}: one of {', '.join(TIMED)}, perhaps with :THREADS")
    each = max(1, cores() // ranks)
    if mode == "single":
        return Contender(name, mode, 1, int(threads or min(cores(), ranks * each)))
    return Contender(name, mode, ranks, int(threads or each))


def check(each, config):
    """Raises: ValueError if the mode cannot be, with so many ranks and this batch."""
    reason = unsuited(each.mode, config.model.towers, each.ranks, config.train.batch, config.model.mixed)
    if reason and each.mode != "pace":
        raise ValueError(f"{each.mode}: {reason}")


def possible(ranks, config):
    """Names of all modes that can be."""
    for name in ("single", "single:1", *TIMED[1:]):
        try:
            check(contender(name, ranks), config)
        except ValueError:
            continue
        yield name


def start(each, links, batch, args):
    """The team of a contender."""
    settings = [args.config, batch, each.threads, *args.set]
    command = [sys.executable, "-m", "bench.modes.rank", each.mode, *map(str, settings)]
    if each.mode == "single":
        with Links(1, None) as alone:
            return Team(each.name, [command], alone.environments())
    return Team(each.name, links.commands(command), links.environments())


def race(contenders, rate, batch, args):
    """Name -> the answers of all its ranks, round by round; without those that cannot start."""
    with Links(args.ranks, rate) as links, ExitStack() as stack:
        teams = []
        for each in contenders:
            teams.append(start(each, links, batch, args))
            stack.callback(teams[-1].close)
        turns = {team.name: partial(team.turn, args.steps) for team in teams if team.starts()}
        if not turns:
            sys.exit("no contender has started")
        return take_turns(turns, args.rounds, warm_up=0)


def speeds(rounds, batch):
    """Images a second of each round."""
    slowest = (max(sum(answer["seconds"]) for answer in answers) for answers in rounds)
    return [batch * len(answers[0]["seconds"]) / seconds for answers, seconds in zip(rounds, slowest)]


def interval(ratios, draws=10_000):
    """The 95 % interval of their median, by a percentile bootstrap over rounds."""
    drawn = np.random.default_rng(0).choice(ratios, (draws, len(ratios)))
    return np.percentile(np.median(drawn, axis=1), [2.5, 97.5])


def lines(part):
    """Of the table: a line for each contender of a part."""
    found = {name: speeds(f["rounds"], part["batch"]) for name, f in part["found"].items()}
    base = max(
        (found[name] for name in ("split", "ddp") if name in found), key=statistics.median, default=None
    )
    for name, own in found.items():
        if name == "pace":
            continue
        f, compared = part["found"][name], ["-", "-"]
        if base:
            ratios = [ours / theirs for ours, theirs in zip(own, base)]
            compared = [f"{statistics.median(ratios):.2f}", "{:.2f}-{:.2f}".format(*interval(ratios))]
        steps = sum(len(answers[0]["seconds"]) for answers in f["rounds"])
        counted = sum(answers[0]["sent"] for answers in f["rounds"]) / steps
        cells = [name, f"{f['ranks']} x {f['threads']}", part["batch"], said(part["rate"])]
        cells += [f"{statistics.median(own):.1f}", f"{min(own):.1f}-{max(own):.1f}", *compared]
        yield [*cells, *(f"{number / 1e6:.2f}" for number in (counted, f["formula"]))]


def parse(words):
    parser = argparse.ArgumentParser(prog="bench.modes race", description=__doc__.split("\n")[0])
    add_links(parser)
    parser.add_argument(
        "--modes", nargs="+", metavar="MODE", help="default: all that can be, single also as single:1"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 32])
    parser.add_argument("--config", default="configs/alexnet.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(words)
    if min(args.rounds, args.steps, *args.batches) < 1 or args.ranks < 2:
        parser.error("--ranks should be 2 or more; --rounds, --steps, --batches 1 or more")
    try:
        configs = [load_config(args.config, [f"train.batch={batch}", *args.set]) for batch in args.batches]
        names = args.modes or list(possible(args.ranks, configs[0]))
        contenders = [contender(name, args.ranks) for name in names]
        for each, config in [(each, config) for each in contenders for config in configs]:
            check(each, config)
    except ValueError as error:
        parser.error(str(error))
    return args, contenders, configs


def main(words):
    args, contenders, configs = parse(words)
    on_cpu()
    if not shutil.which("ss"):
        sys.exit("ss, which counts what is sent, is missing: install iproute2")
    parts = read_json(FILE)
    for rate, config in [(rate, config) for rate in args.links for config in configs]:
        batch = config.train.batch
        try:
            rounds = race(contenders, rate, batch, args)
        except (ValueError, EOFError) as error:
            sys.exit(str(error))
        found = {}
        for name, mode, ranks, threads in [each for each in contenders if each.name in rounds]:
            formula = 0 if mode == "pace" else sent(mode, config.model, ranks, batch)
            about = {"mode": mode, "ranks": ranks, "threads": threads, "formula": formula}
            found[name] = {**about, "rounds": rounds[name]}
        part = {**origin(), "config": Path(args.config).stem, "batch": batch, "rate": rate, "found": found}
        name = ", ".join([part["config"], f"{args.ranks} ranks", f"batch {batch}", said(rate), *args.set])
        parts[name] = part
        write_json(FILE, parts)
        print(table(HEAD, lines(part)), flush=True)
