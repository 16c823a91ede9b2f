"""The tables of docs/ablations.md."""

import statistics
from collections import Counter
from collections.abc import Mapping
from itertools import groupby

import numpy as np

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import totals
from bench.ablations import stats
from bench.ablations.arms import BASE, config_of, suites
from bench.ablations.findings import (
    FAMILIES,
    LEVEL,
    SOONER,
    Finding,
    evidence,
    finals,
    last,
    of_a_seed,
    passed,
    sooner,
    until,
)
from bench.ablations.jobs import Job
from bench.results import REPOSITORY, table


def arms_table(all_of: list[Finding]) -> str:
    """A line for each arm of a suite."""
    lines = []
    for f in all_of:
        cells = [f.arm, f"{f.rate:g}", f"{f.training:.2f}", f"{f.error:.2f} ± {f.spread:.2f}"]
        if f.arm != BASE:
            cells += [f"{f.difference:+.2f}", "{:+.2f} to {:+.2f}".format(*f.ends)]
            cells += [f"{f.alone:.3f}", f"{f.corrected:.3f}"]
        lines.append([*cells, *[""] * (8 - len(cells))])
    errors = ["training error, %", "test error, %", "minus the base's"]
    head = ["arm", "rate", *errors, "95 %", "p", "p, corrected"]
    return table(head, lines)


def claims_table(all_of: Mapping[str, list[Finding]], found: Mapping[Job, dict]) -> str:
    """Claim -> evidence -> verdict."""
    lines, before = [], None
    for claim, suite, f, verdict in evidence(all_of):
        said = [claim.says, claim.by] if claim is not before else ["", ""]
        before = claim
        low, high = f.ends
        figures = f"{f.difference:+.2f} ({low:+.2f} to {high:+.2f}), p = {f.corrected:.3f}"
        lines.append([*said, f"{f.arm}, {FAMILIES[suite]}", figures, verdict])
    if times := sooner(found):
        claim = f"ReLU passes {100 * LEVEL:g} % of training error {SOONER} times sooner than tanh"
        figures = "{:.2f} times the epochs ({:.2f} to {:.2f}), p = {:.3f}"
        figures = figures.format(times.epochs, *times.ends, times.p)
        lines.append([claim, "the paper, Figure 1", "tanh, CIFAR-10", figures, times.verdict])
    return table(["claim", "by", "without it", "difference, points of error", "verdict"], lines)


def published_table(all_of: Mapping[str, list[Finding]]) -> str:
    """Claims of which there are other figures, beside ours."""
    lines = []
    for claim, of in groupby(evidence(all_of), key=lambda found: found[0]):
        ours = [f"{f.arm}, {FAMILIES[suite]}, {f.difference:+.2f}" for _, suite, f, _ in of]
        if claim.published != "none":
            lines.append([claim.says, claim.published, "; ".join(ours)])
    return table(["claim", "published", "here, top-1"], lines)


def modes_table(found: Mapping[Job, dict]) -> str:
    """The base in three modes, seed by seed."""
    single, lines = finals("fashion", BASE, found), []
    for mode in suites()["fashion"].arms[BASE].modes:
        of = finals("fashion", BASE, found, mode)
        pairs = of_a_seed(single, of)
        if len(pairs) < 2:
            continue
        difference = np.array([last(other) - last(one) for one, other in pairs])
        low, high = stats.interval(difference)
        same = sum(one["test_error"] == other["test_error"] for one, other in pairs)
        mean = statistics.mean(map(last, of))
        cells = [mode, len(of), f"{mean:.2f}", f"{difference.mean():+.2f}", f"{low:+.2f} to {high:+.2f}"]
        lines.append([*cells, f"{same} of {len(pairs)}"])
    head = ["mode", "seeds", "test error, %", "minus one device's", "95 %", "the same at every epoch"]
    return table(head, lines)


def figure1_table(found: Mapping[Job, dict]) -> str:
    """When each passes LEVEL, by the epochs and by the seconds of its steps."""
    lines = []
    for arm in suites()["figure 1"].arms:
        of = finals("figure 1", arm, found)
        epochs = [passed(row) for row in of]
        there = [epoch for epoch in epochs if epoch]
        rate = f"{of[0]['rate']:g}" if of else ""
        cells = ["ReLU" if arm == BASE else arm, rate, f"{len(there)} of {len(of)}"]
        if there:
            cells += [f"{statistics.mean(there):.1f}", f"{min(there)} to {max(there)}"]
            cells += [f"{statistics.median(until(row) for row in of if passed(row)):.0f}"]
        lines.append([*cells, *[""] * (6 - len(cells))])
    if times := sooner(found):
        figures = "{:.2f} ({:.2f} to {:.2f}), p = {:.3f}".format(times.epochs, *times.ends, times.p)
        both = f"{times.seeds} pairs"
        lines.append(["tanh over ReLU", "", both, figures, "", f"{times.seconds:.2f}"])
    head = ["", "rate", f"pass {100 * LEVEL:g} %", "epochs, mean", "of the seeds", "seconds, median"]
    return table(head, lines)


def networks_table(found: Mapping[Job, dict]) -> str:
    """LeNet and AlexNet: what they are; LeNet and the base: what they give on the same images."""
    full = totals(load_config(REPOSITORY / "configs" / "alexnet.yaml").model)
    lines = [["AlexNet", f"{full[0]:,}", f"{full[1] / 1e6:.2f} M", "", "", ""]]
    for suite, name in (("lenet", "LeNet"), ("fashion", "AlexNet in small")):
        arm, of = suites()[suite].arms[BASE], finals(suite, BASE, found)
        weights, products = totals(config_of(suites()[suite], arm, 0.01, 0).of_classes().model)
        errors = [last(row) for row in of]
        seconds = statistics.median(sum(row["seconds"]) for row in of) if of else 0
        figures = f"{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f}" if len(of) > 1 else ""
        lines.append([name, f"{weights:,}", f"{products / 1e6:.2f} M", len(of), figures, f"{seconds:.0f}"])
    head = ["network", "parameters", "multiply-adds", "seeds", "test error, %", "seconds of training"]
    return table(head, lines)


def textbook_table(found: Mapping[Job, dict]) -> str:
    """Epoch by epoch."""
    of = finals("textbook", BASE, found)
    columns = [zip(row["train_loss"], row["train_error"], row["test_error"]) for row in of]
    lines = [
        [n, f"{loss:.3f}", f"{100 * error:.1f}", f"{100 * tested:.1f}"]
        for column in columns
        for n, (loss, error, tested) in enumerate(column, 1)
    ]
    return table(["epoch", "training loss", "training error, %", "test error, %"], lines)


def hours_table(found: Mapping[Job, dict]) -> str:
    """Of each suite, the hours for which its training steps have kept two cores."""
    runs, hours = Counter(), Counter()
    for job, row in found.items():
        runs[job.suite] += 1
        hours[job.suite] += sum(row["seconds"]) / 3600 / (1 if job.alone else 2)
    lines = [[suite, runs[suite], f"{hours[suite]:.1f}"] for suite in suites()]
    lines.append(["all", runs.total(), f"{hours.total():.1f}"])
    return table(["", "runs", "hours of two cores"], lines)


def tables(all_of: Mapping[str, list[Finding]], found: Mapping[Job, dict]) -> dict[str, str]:
    """By their marks in the page."""
    return {
        **{f"arms, {suite}": arms_table(of) for suite, of in all_of.items()},
        "claims": claims_table(all_of, found),
        "published": published_table(all_of),
        "modes": modes_table(found),
        "figure 1": figure1_table(found),
        "networks": networks_table(found),
        "textbook": textbook_table(found),
        "hours": hours_table(found),
    }
