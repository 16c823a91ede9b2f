"""What the rows say: every arm beside its base, and what that says to a claim."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bench.ablations import stats
from bench.ablations.arms import BASE, claims, suites
from bench.ablations.jobs import Job, rate_of
from bench.ablations.runs import errors_of

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


def families(found: Mapping[Job, dict]) -> dict[str, list[Finding]]:
    """The findings of both sets of images."""
    return {suite: findings(suite, found) for suite in FAMILIES}


def evidence(all_of: Mapping[str, list[Finding]]):
    """(claim, suite, finding, verdict), for all that has been found of a claim."""
    for claim in claims():
        for expected, arms in (("worse", claim.worse), ("same", claim.same)):
            for suite, found in all_of.items():
                for f in found:
                    if f.arm in arms:
                        yield claim, suite, f, stats.verdict(f.ends, f.corrected, expected, MARGIN)


def passed(row: dict) -> int | None:
    """The first epoch whose training error is below LEVEL."""
    return next((n for n, error in enumerate(row["train_error"], 1) if error < LEVEL), None)
