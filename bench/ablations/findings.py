"""What the rows say: every arm beside its base, and what that says to a claim."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bench.ablations import stats
from bench.ablations.arms import BASE, claims, suites
from bench.ablations.jobs import Job, rate_of
from bench.ablations.runs import errors_of

LEVEL = 0.25  # training error of the paper's Figure 1
SOONER = 6  # times: what that says of ReLU
FAMILIES = {"fashion": "clothes", "caltech": "photographs"}  # suites whose arms are compared with their base


class Finding(NamedTuple):
    """An arm beside its base, in percentage points of test error."""

    arm: str
    rate: float
    error: float  # mean
    spread: float  # standard deviation over seeds
    training: float  # mean training error of the last epoch, with whatever the arm trains with
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


def of_a_seed(ones: list[dict], others: list[dict]) -> list[tuple[dict, dict]]:
    """The rows of two arms or modes, in pairs; a seed that one of them lacks is left out."""
    other = {row["seed"]: row for row in others}
    return [(row, other[row["seed"]]) for row in ones if row["seed"] in other]


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
        training = 100 * np.mean([row["train_error"][-1] for row in whole[arm] if not row["failed"]])
        figures = of.mean(), of.std(ddof=1), training, difference.mean(), ends, alone, corrected, len(of)
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
                        yield claim, suite, f, stats.verdict(f.ends, f.corrected, expected)


class Sooner(NamedTuple):
    """The paper's Figure 1: tanh's time to pass LEVEL over ReLU's, of the seeds of which both do."""

    epochs: float  # geometric mean
    ends: tuple[float, float]
    p: float
    seconds: float
    seeds: int

    @property
    def verdict(self) -> str:
        """What it says to SOONER."""
        low, high = self.ends
        return "holds" if low >= SOONER else "does not hold" if high < SOONER else "not at this size"


def sooner(found: Mapping[Job, dict]) -> Sooner | None:
    """None before two seeds of each have passed."""
    both = of_a_seed(*(finals("figure 1", arm, found) for arm in (BASE, "tanh")))
    pairs = [pair for pair in both if all(map(passed, pair))]
    if len(pairs) < 2:
        return None
    epochs, seconds = ([np.log(of(tanh) / of(relu)) for relu, tanh in pairs] for of in (passed, until))
    ends = tuple(np.exp(stats.interval(np.array(epochs))))
    p = stats.flip_test(np.array([epochs]))[0][0]
    return Sooner(np.exp(np.mean(epochs)), ends, p, np.exp(np.mean(seconds)), len(pairs))


def until(row: dict) -> float:
    """The seconds of its steps until it has passed LEVEL."""
    return sum(row["seconds"][: passed(row)])


def passed(row: dict) -> int | None:
    """The first epoch whose training error is below LEVEL."""
    return next((n for n, error in enumerate(row["train_error"], 1) if error < LEVEL), None)
