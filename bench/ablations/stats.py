"""Statistics of paired differences between few runs: intervals, and tests of a whole family of arms at once.

Every arm is trained with the same seeds, so an arm's difference from the base is taken seed by seed.
"""

import itertools
from statistics import NormalDist

import numpy as np

DRAWS, LEVEL = 10_000, 0.95
MARGIN = 0.5  # percentage points: what is less makes no difference
SEEN = MORE, LESS, SMALL, UNKNOWN = "errs more", "errs less", "less than half a point", "not at this size"


def interval(differences: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Of the mean of (n,) differences, by the bootstrap that is corrected for bias and skewness (BCa: Efron
    1987); both ends are the mean if all are the same."""
    n, mean = len(differences), differences.mean()
    drawn = np.random.default_rng(0).choice(differences, (DRAWS, n)).mean(1)
    without = (differences.sum() - differences) / (n - 1)  # jackknife
    apart = without.mean() - without
    if not (apart**2).sum() > 1e-24:
        return float(mean), float(mean)
    skewness = (apart**3).sum() / (6 * (apart**2).sum() ** 1.5)
    below = ((drawn < mean).mean() + (drawn <= mean).mean()) / 2
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(below, 1 / DRAWS), 1 - 1 / DRAWS))
    ends = []
    for side in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(side)
        ends.append(normal.cdf(bias + z / (1 - skewness * z)))
    return tuple(float(end) for end in np.quantile(drawn, ends))


def flip_test(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (arms, n) differences, each arm's p that their signs are by chance: alone, and corrected for all.

    All 2^n ways to flip the seeds' signs are gone through, each for all arms alike, since arms share seeds. p
    is the share of them in which an arm's t, without its sign, is as large as it is; corrected, in which the
    largest t of all arms is (Westfall and Young 1993). The least that n seeds can show is 2 / 2^n.
    """
    _, n = differences.shape
    flips = np.array(list(itertools.product((1.0, -1.0), repeat=n)))  # (2^n, n)
    found, flipped = size_of(differences), np.stack([size_of(differences * flip) for flip in flips])
    enough = flipped >= found * (1 - 1e-9)  # (2^n, arms)
    largest = flipped.max(1, keepdims=True) >= found * (1 - 1e-9)
    return enough.mean(0), largest.mean(0)


def size_of(differences: np.ndarray) -> np.ndarray:
    """|t| of (arms, n) differences: the mean, in standard errors of it."""
    n = differences.shape[1]
    spread = differences.std(1, ddof=1) / np.sqrt(n)
    return np.abs(differences.mean(1)) / np.maximum(spread, 1e-12)


def seen(ends: tuple[float, float], p: float) -> str:
    """What an arm's interval and its corrected p say of the arm beside its base: one of SEEN."""
    if p < 1 - LEVEL:
        return MORE if sum(ends) > 0 else LESS
    return SMALL if small(ends) else UNKNOWN


def small(ends: tuple[float, float]) -> bool:
    """Whether the whole interval is within +- MARGIN."""
    return ends[0] >= -MARGIN and ends[1] <= MARGIN


def verdict(ends: tuple[float, float], p: float, expected: str) -> str:
    """What an arm says to a claim: that it errs more (`expected` worse), or that it does not differ (same),
    which holds of less than MARGIN. SMALL, or UNKNOWN, if there is no answer."""
    if expected == "same" and small(ends):
        return "holds"
    said = seen(ends, p)
    if said in (SMALL, UNKNOWN):
        return said
    return "holds" if (expected, said) == ("worse", MORE) else "does not hold"
