"""The page from the rows: tables between their marks, pictures in docs/results/ablations. It moves to docs/
as soon as all tables are there."""

import statistics
from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

import numpy as np

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import totals
from bench.ablations import draw, stats
from bench.ablations.arms import BASE, HERE, claims, config_of, suites
from bench.ablations.jobs import Job, rate_of
from bench.ablations.runs import errors_of, rows
from bench.results import REPOSITORY, redraw, table

PAGE = HERE / "ablations.md"
PICTURES = REPOSITORY / "docs" / "results" / "ablations"
MARGIN = 0.5  # percentage points: less is the same, for a claim that something does nothing
LEVEL = 0.25  # training error of the paper's Figure 1
FAMILIES = {"fashion": "clothes", "caltech": "photographs"}  # suites whose arms are compared with their base


class Finding(NamedTuple):
    """An arm beside its base, in percentage points of test error."""

    arm: str
    rate: float
    error: float  # mean
    spread: float  # standard deviation over seeds
    difference: float  # mean of pairs
    ends: tuple[float, float]
    alone: float  # p
    corrected: float
    seeds: int


def finals(suite: str, arm: str, found: Mapping[Job, dict], mode: str = "single") -> list[dict]:
    """The rows of the chosen rate, by seed."""
    rate, _ = rate_of(suite, arm, errors_of(found))
    jobs = [Job(suite, arm, "final", mode, rate, seed) for seed in range(suites()[suite].seeds)]
    return [found[job] for job in jobs if job in found]


def last(row: dict) -> float:
    """Its test error at the end, in percent."""
    return 100.0 if row["failed"] else 100 * row["test_error"][-1]


def findings(suite: str, found: Mapping[Job, dict]) -> list[Finding]:
    """Of every arm of a suite whose seeds are all there; the base comes first."""
    whole = {arm: finals(suite, arm, found) for arm in suites()[suite].arms}
    whole = {arm: of for arm, of in whole.items() if len(of) == suites()[suite].seeds}
    if BASE not in whole or len(whole) < 2:
        return []
    errors = {arm: np.array([last(row) for row in of]) for arm, of in whole.items()}
    arms = [arm for arm in errors if arm != BASE]
    differences = np.stack([errors[arm] - errors[BASE] for arm in arms])
    tested = dict(zip(arms, zip(*stats.flip_test(differences))))
    result = []
    for arm, of in errors.items():
        difference = of - errors[BASE]
        alone, corrected = tested.get(arm, (1.0, 1.0))
        ends = stats.interval(difference)
        figures = of.mean(), of.std(ddof=1), difference.mean(), ends, alone, corrected, len(of)
        result.append(Finding(arm, whole[arm][0]["rate"], *figures))
    return result


def arms_table(all_of: list[Finding]) -> str:
    """A line for each arm of a suite."""
    lines = []
    for f in all_of:
        cells = [f.arm, f"{f.rate:g}", f"{f.error:.2f} ± {f.spread:.2f}"]
        if f.arm != BASE:
            cells += [f"{f.difference:+.2f}", "{:+.2f} to {:+.2f}".format(*f.ends)]
            cells += [f"{f.alone:.3f}", f"{f.corrected:.3f}"]
        lines.append([*cells, *[""] * (7 - len(cells))])
    head = ["arm", "rate", "test error, %", "less the base's", "95 %", "p", "p, of the family"]
    return table(head, lines)


def evidence(all_of: Mapping[str, list[Finding]]):
    """(claim, suite, finding, verdict), for all that has been found of a claim."""
    for claim in claims():
        for expected, arms in (("worse", claim.worse), ("same", claim.same)):
            for suite, found in all_of.items():
                for f in found:
                    if f.arm in arms:
                        yield claim, suite, f, stats.verdict(f.ends, f.corrected, expected, MARGIN)


def claims_table(all_of: Mapping[str, list[Finding]]) -> str:
    """Claim -> evidence -> verdict."""
    lines, before = [], None
    for claim, suite, f, verdict in evidence(all_of):
        said = [claim.says, claim.by] if claim is not before else ["", ""]
        before = claim
        low, high = f.ends
        figures = f"{f.difference:+.2f} ({low:+.2f} to {high:+.2f}), p = {f.corrected:.3f}"
        lines.append([*said, f"{f.arm}, {FAMILIES[suite]}", figures, verdict])
    return table(["claim", "by", "without it", "error, points", "verdict"], lines)


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
        pairs = list(zip(single, of))
        if len(pairs) < 2:
            continue
        difference = np.array([last(other) - last(one) for one, other in pairs])
        low, high = stats.interval(difference)
        same = sum(one["test_error"] == other["test_error"] for one, other in pairs)
        mean = statistics.mean(map(last, of))
        cells = [mode, len(of), f"{mean:.2f}", f"{difference.mean():+.2f}", f"{low:+.2f} to {high:+.2f}"]
        lines.append([*cells, f"{same} of {len(pairs)}"])
    head = ["mode", "seeds", "test error, %", "less one device's", "95 %", "the same at every epoch"]
    return table(head, lines)


def passed(row: dict) -> int | None:
    """The first epoch whose training error is below LEVEL."""
    return next((n for n, error in enumerate(row["train_error"], 1) if error < LEVEL), None)


def figure1_table(found: Mapping[Job, dict]) -> str:
    """When each passes LEVEL, by the epochs and by the seconds of its steps."""
    lines = []
    for arm in suites()["figure 1"].arms:
        of = finals("figure 1", arm, found)
        epochs = [passed(row) for row in of]
        there = [epoch for epoch in epochs if epoch]
        seconds = [sum(row["seconds"][:epoch]) for row, epoch in zip(of, epochs) if epoch]
        rate = f"{of[0]['rate']:g}" if of else ""
        cells = ["ReLU" if arm == BASE else arm, rate, f"{len(there)} of {len(of)}"]
        if there:
            cells += [f"{statistics.mean(there):.1f}", f"{min(there)} to {max(there)}"]
            cells += [f"{statistics.median(seconds):.0f}"]
        lines.append([*cells, *[""] * (6 - len(cells))])
    head = ["", "rate", f"pass {LEVEL:.0%}", "epochs, mean", "of the seeds", "seconds, median"]
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


def pictures(all_of: Mapping[str, list[Finding]], found: Mapping[Job, dict]) -> None:
    """All of them."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    said = {(suite, f.arm): verdict for _, suite, f, verdict in evidence(all_of)}
    for suite, of in all_of.items():
        rows_ = [(f.arm, f.difference, f.ends, said.get((suite, f.arm), "")) for f in of if f.arm != BASE]
        if rows_:
            draw.forest(f"{FAMILIES[suite]}: what each lacks", rows_, PICTURES / f"{suite}.png")
    shown = {
        "activations": ("fashion", [BASE, "tanh", "sigmoid"], "test_error", ["test error, %"]),
        "dropout": ("fashion", [BASE, "dropout 0.3", "no dropout"], "test_error", ["test error, %"]),
        "figure 1": ("figure 1", [BASE, "tanh"], "train_error", ["training error, %", 100 * LEVEL]),
    }
    for name, (suite, arms, key, labels) in shown.items():
        called = {BASE: "ReLU"} if "tanh" in arms else {}
        lines = {}
        for arm in arms:
            if some := [row for row in finals(suite, arm, found) if not row["failed"]]:
                lines[called.get(arm, arm)] = [row["seconds"] for row in some], [row[key] for row in some]
        if lines:
            title = f"{FAMILIES.get(suite, 'CIFAR-10')}: {name}"
            draw.curves(title, lines, labels, PICTURES / f"{name.replace(' ', '')}.png")


def tables(found: Mapping[Job, dict], all_of: Mapping[str, list[Finding]]) -> dict[str, str]:
    """By their marks in the page."""
    return {
        **{f"arms, {suite}": arms_table(of) for suite, of in all_of.items()},
        "claims": claims_table(all_of),
        "published": published_table(all_of),
        "modes": modes_table(found),
        "figure 1": figure1_table(found),
        "networks": networks_table(found),
        "textbook": textbook_table(found),
    }


def main() -> None:
    """All of the page that rows are there for."""
    found = rows()
    all_of = {suite: findings(suite, found) for suite in FAMILIES}
    pictures(all_of, found)
    redraw(PAGE, tables(found, all_of))
