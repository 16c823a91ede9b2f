"""Modes side by side: what a step of each costs, which is the fastest, and where."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import Network
from alexnet2gpu.config.text import table
from alexnet2gpu.model.profile import Profile
from alexnet2gpu.ranks.cost import Lines, pipeline, play, sent
from alexnet2gpu.ranks.names import FLAGS
from alexnet2gpu.ranks.schedule import TIMED, step_of, unsuited

OWN_ERROR = 0.12  # of the model: with it 44 of 48 measured steps lie between low and high (bench.modes.judge)
CLOSE = 0.07  # of modes nearer to each other on paper either one was found to be the faster there


def proviso(profile: Profile) -> str:
    """What times by this profile take for granted; of CPUs nothing."""
    graphs = "as if every rank's step were one CUDA graph, which only a single device's is today"
    return "" if profile.cores else graphs


class Plan(NamedTuple):
    """A row of a table."""

    mode: str
    ranks: int
    batch: float
    seconds: tuple[float, float, float]  # of a step: low, middle, high
    sent: float  # bytes of a rank
    peak: int | None = None  # bytes of a rank, if somebody has predicted it

    @property
    def images_per_second(self) -> float:
        return self.batch / self.seconds[1]

    @property
    def cells(self) -> tuple[str, str, str]:
        """Of a table: ms a step, from - to, images/s."""
        low, middle, high = (1000 * seconds for seconds in self.seconds)
        return f"{middle:.1f}", f"{low:.1f} - {high:.1f}", f"{self.images_per_second:,.0f}"


class Setting(NamedTuple):
    """What plans have in common. `element`: bytes of an activation as it travels."""

    network: Network
    profile: Profile
    lines: Lines
    ranks: int
    element: int = 4

    def unsuited(self, mode: str, batch: int) -> str:
        """schedule.unsuited of this setting."""
        return unsuited(mode, self.network.towers, self.ranks, batch, self.network.mixed)

    def plan(self, mode: str, batch: float) -> Plan:
        """A step of a mode, of which `unsuited` has nothing to say."""
        low, high = self.profile.spread
        clock = self._clock(mode, batch)
        first, middle, last = clock(self.lines, low, -1), clock(self.lines), clock(self.lines, high, 1)
        seconds = first * (1 - OWN_ERROR), middle, last * (1 + OWN_ERROR)
        ranks = 1 if mode == "single" else self.ranks
        return Plan(mode, ranks, batch, seconds, sent(mode, self.network, ranks, batch, self.element))

    def _clock(self, mode, batch):
        """A function of lines, of how much slower than the profile's median, and of spreads of the lines."""
        ranks = 1 if mode == "single" else self.ranks
        threads, cores = min(ranks, self.lines.per_machine) * self.profile.threads, self.profile.cores
        crowd = max(1.0, threads / cores) if cores else 1.0
        if mode != "pipeline":
            ops = step_of(mode, self.network, ranks, batch, self.element)

        def seconds(lines, side=1.0, stretch=0):
            clock = partial(play, profile=self.profile, lines=lines, pace=crowd * side, stretch=stretch)
            return pipeline(self.network, batch, self.element, clock) if mode == "pipeline" else clock(ops)

        return seconds

    def fastest_of(self, batches: Sequence[float], rates: Sequence[float]) -> list[list[str]]:
        """The fastest mode at each of `rates`, bytes a second of the line that is the slowest, and batch."""
        modes = [mode for mode in TIMED if not self.unsuited(mode, 0)]
        clocks = [{mode: self._clock(mode, batch) for mode in modes} for batch in batches]
        name, found = "between" if self.lines.between else "inside", []
        for rate in rates:
            line = replace(getattr(self.lines, name), bandwidth=rate)
            lines = replace(self.lines, **{name: line})
            found.append([min(of, key=lambda mode: of[mode](lines)) for of in clocks])
        return found


def element_of(config: Config) -> int:
    """Bytes of an activation as it travels. Of float64, as of float32, 4: a profile knows no other."""
    narrow = config.exchange.precision or config.train.precision in ("bfloat16", "float16")
    return 2 if narrow else 4


def comparison(plans: Sequence[Plan], budget: float | None = None) -> str:
    """A table, and of each batch the fastest mode, the smallest, the fastest whose peak fits the budget."""
    lines = [("mode", "ranks", "batch", "ms a step", "from - to", "images/s", "MB sent", "MiB, peak")]
    said = {}
    for plan in plans:
        ends = f"{plan.sent / 1e6:.1f}", f"{plan.peak / 2**20:,.0f}" if plan.peak else ""
        lines.append((named(plan.mode), str(plan.ranks), str(plan.batch), *plan.cells, *ends))
    for batch in dict.fromkeys(plan.batch for plan in plans):
        of = [plan for plan in plans if plan.batch == batch]
        held = [plan for plan in of if plan.peak]
        said[batch] = f"batch {batch}: the fastest is {fastest(of)}"
        if held:
            said[batch] += f"; the smallest {named(min(held, key=lambda plan: plan.peak).mode)}"
        if budget:
            fits = [plan for plan in held if plan.peak <= budget]
            said[batch] += f"; the fastest that fits {fastest(fits)}" if fits else "; none is known to fit"
    starred = ["* none of launch/train.py's modes"] * any("*" in mode for mode, *_ in lines)
    return "\n".join([table(lines), *starred, *said.values()])


def named(mode: str) -> str:
    """A mode's name; with a star, if launch/train.py has no such mode."""
    return mode + "*" * (mode not in (*FLAGS, "zero1"))


def fastest(plans: Sequence[Plan]) -> str:
    """The quickest mode's name, with those that are too close to it."""
    first, *others = sorted(plans, key=lambda plan: plan.seconds[1])
    close = [named(plan.mode) for plan in others if plan.seconds[1] < first.seconds[1] * (1 + CLOSE)]
    return named(first.mode) + (f" (or {', '.join(close)}: too close to tell)" if close else "")
