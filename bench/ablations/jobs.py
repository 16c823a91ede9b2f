"""Which runs an ablation consists of, and in which order: a function of what has been done."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bench.ablations.arms import GRID, suites

CHOICE = 2  # seeds, of which the mean chooses a rate


class Job(NamedTuple):
    """One run. `part`: choose, on what is held out of the training images, or final."""

    suite: str
    arm: str
    part: str
    mode: str
    rate: float
    seed: int

    @property
    def alone(self) -> bool:
        """Whether it needs two cores."""
        return self.mode != "single" or suites()[self.suite].threads > 1


def rate_of(suite: str, arm: str, errors: Mapping[Job, float]) -> tuple[float | None, list[Job]]:
    """The rate with the least mean of `errors`, of two as good the larger, or None and the jobs that have to
    say it. If it is at an end of what was tried, the next of the grid is tried, too."""
    rates = sorted(suites()[suite].arms[arm].rates or suites()[suite].rates)
    if len(rates) == 1:
        return rates[0], []
    while True:
        tried = {
            rate: [Job(suite, arm, "choose", "single", rate, n) for n in range(CHOICE)] for rate in rates
        }
        if lacking := [job for jobs in tried.values() for job in jobs if job not in errors]:
            return None, lacking
        best = min(rates, key=lambda rate: (round(sum(errors[job] for job in tried[rate]), 9), -rate))
        beyond = GRID.index(best) + {rates[0]: -1, rates[-1]: 1}.get(best, len(GRID))
        if not 0 <= beyond < len(GRID):
            return best, []
        rates = sorted([*rates, GRID[beyond]])


def missing(errors: Mapping[Job, float]) -> Iterator[Job]:
    """What is to be done next: first what chooses rates, then a seed of every arm, then the next seed."""
    late = []
    for name, suite in suites().items():
        for arm in suite.arms:
            rate, jobs = rate_of(name, arm, errors)
            yield from jobs
            if rate is not None:
                late += _finals(name, suite, arm, rate)
    late = [job for job in late if job not in errors]
    yield from sorted(late, key=lambda job: (job.mode != "single", job.seed))


def _finals(name, suite, arm, rate):
    modes, seeds = suite.arms[arm].modes, range(suite.seeds)
    return [Job(name, arm, "final", mode, rate, seed) for mode in modes for seed in seeds]
