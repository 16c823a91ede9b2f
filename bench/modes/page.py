"""docs/modes.md: its tables and its chart, from bench/results/modes-*-cpu.json and the formulas."""

import statistics

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.profile import read
from alexnet2gpu.ranks.cost import Line, Lines, sent
from alexnet2gpu.ranks.plans import Setting, named
from alexnet2gpu.ranks.schedule import TIMED
from bench.modes import judge, memory, published, race
from bench.modes.links import said
from bench.results import REPOSITORY, program_of, read_json, redraw, results_file, table

PAGE = REPOSITORY / "docs" / "modes.md"
CHART = REPOSITORY / "docs" / "results" / "modes" / "fastest.png"
NETWORK = load_config("configs/alexnet.yaml").model
H100 = Setting(NETWORK, read("h100"), Lines(Line(50e9, 5e-6)), 2)
BATCHES = 32, 64, 128, 256, 512, 1024
MODES = "split", "hybrid", "ddp", "zero1", "fsdp", "pipeline"


def sent_table():
    """MB of a rank in a step, over 2 ranks."""
    lines = [[mode, *(f"{sent(mode, NETWORK, 2, b) / 1e6:.1f}" for b in BATCHES)] for mode in MODES]
    return table(["MB, global batch", *map(str, BATCHES)], lines)


def memory_table():
    return table(memory.HEAD, list(memory.lines(read_json(results_file("modes-memory", False))["memory"])))


def race_table():
    """Images a second in the races of two ranks, and the ratio to the better of split and DDP."""
    parts, lines = read_json(race.FILE), []
    settings = [(batch, said(rate), "") for batch in (128, 32) for rate in judge.RATES]
    settings.insert(1, (128, said(None), ", 24 rounds"))
    for batch, link, longer in settings:
        for cells in race.lines(parts[f"alexnet, 2 ranks, batch {batch}, {link}, model.towers=2{longer}"]):
            mode, _, _, _, *figures = cells
            lines.append([batch, link + longer, mode, *figures])
    head = ["batch", "link", "mode", "images/s", "of the rounds", "ratio", "95 %", "MB sent", "formula"]
    return table(head, lines)


def cells_table():
    """How far the model is true, by link and by number of ranks."""
    cells = read_json(results_file("modes-judged", False))["cells"]
    groups = {"all": lambda c: True}
    groups |= {f"{n} ranks": lambda c, n=n: c[0] == n for n in (2, 4)}
    groups |= {said(rate): lambda c, rate=rate: c[3] == rate for rate in judge.RATES}
    lines = []
    for name, belongs in groups.items():
        own = [cell for cell in cells if belongs(cell)]
        errors = [abs(middle / measured - 1) for *_, measured, _, middle, _ in own]
        found = [((*cell[:4],), *cell[4:]) for cell in own]
        pairs, ties, right = judge.order(found)
        lines.append([name, len(own), f"{statistics.median(errors):.1%}", f"{max(errors):.1%}"])
        inside = sum(low <= measured <= high for *_, measured, low, _, high in own)
        lines[-1] += [inside, pairs, ties, f"{right} of {pairs - ties}"]
    head = ["cells", "", "median error", "worst", "inside", "pairs of modes", "ties", "order right"]
    return table(head, lines)


def published_table():
    lines = [[m, n, f"{p:.1f}", f"{ours:.1f}", f"{error:+.1%}"] for m, n, p, ours, error in published.rows()]
    return table(["machine", "GPUs", "ms a step, published", "model", "error"], lines)


def plan_table():
    """Two H100 on paper: a step, beside one of a single GPU."""
    lines = []
    for batch in (32, 128, 1024):
        plans = [H100.plan(mode, batch) for mode in TIMED if not H100.unsuited(mode, batch)]
        for plan in plans:
            times = plans[0].seconds[1] / plan.seconds[1]
            lines.append([batch, named(plan.mode), *plan.cells, f"{times:.2f}"])
    return table(["batch", "mode", "ms a step", "from - to", "images/s", "times one GPU"], lines)


def draw_chart():
    """The fastest mode of two H100 over batch and bandwidth."""
    CHART.parent.mkdir(exist_ok=True)
    program_of("plan").draw(H100, "alexnet.yaml on two H100: the fastest mode", CHART, slowest=8)


def tables():
    """Of the page, by their marks."""
    drawn = {"sent": sent_table, "memory": memory_table, "race": race_table}
    drawn |= {"cells": cells_table, "published": published_table, "plan": plan_table}
    return {name: draw() for name, draw in drawn.items()}


def main(words):
    redraw(PAGE, tables())
    draw_chart()
