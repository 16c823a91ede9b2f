"""The time of a training step on paper, and the bytes that a rank sends in it. No torch.

A clock goes through what a rank does (schedule.py). Layers take what a profile says (model/profile.py), bytes
what a line takes: alpha a message, and bytes / bandwidth. A line carries one thing after another. What is not
waited for travels while the rank computes, so its time shows only as far as it ends later than the rank: that
of DDP's last bucket does, since it leaves with the last gradient.

On CPUs, n ranks of t threads on c cores compute n t / c times slower, if that is more than 1; and who carries
bytes cannot compute: `handling`. All constants are data, of a profile or a line; `fit` finds a line's.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from alexnet2gpu.config.network import Network, trace
from alexnet2gpu.model.profile import Profile
from alexnet2gpu.ranks.schedule import Op, step_of

SENT = "exchange", "gather", "sum", "scatter", "broadcast"  # kinds of what travels
MICROBATCHES = 4  # of a pipeline


@dataclass(frozen=True)
class Line:
    """What carries bytes from rank to rank."""

    bandwidth: float  # bytes a second that a rank sends, while it receives as many
    alpha: float = 0.0  # seconds of a message
    summing: float = 1.0  # bandwidth of sums, in parts of that; of gathers and scatters, by bytes needed
    gathering: float = 1.0
    scattering: float = 1.0
    handling: float = 0.0  # seconds in which a rank does not compute, for each byte that it sends: on CPUs
    copying: float = 0.0  # seconds to copy a byte, where FSDP2 does
    spread: float = 0.0  # relative: seconds may be so much less or more

    def __post_init__(self):
        """Raises: ValueError, or TypeError if something is no number."""
        rates = self.bandwidth, self.summing, self.gathering, self.scattering
        others = self.alpha, self.handling, self.copying, self.spread
        if not (all(0 < x < math.inf for x in rates) and all(0 <= x < math.inf for x in others)):
            raise ValueError("bandwidths should be finite, more than 0; seconds finite, at least 0")

    def seconds(self, op: Op) -> float:
        """As a ring: n - 1 messages one after another, of a sum twice as many."""
        if op.kind == "broadcast":  # one at a time sends all of its part
            turns = math.ceil(math.log2(op.ranks)) if self.handling else 1  # gloo's tree; NCCL hands parts on
            return self.alpha + turns * op.amount * op.ranks / (op.ranks - 1) / self.bandwidth
        rounds = 2 if op.kind == "sum" else 1
        parts = {"sum": self.summing, "gather": self.gathering, "scatter": self.scattering}
        return rounds * (op.ranks - 1) * self.alpha + op.amount / (self.bandwidth * parts.get(op.kind, 1))


@dataclass(frozen=True)
class Lines:
    """The line inside a machine and, if there are several, the one from each of them to the others."""

    inside: Line
    between: Line | None = None
    per_machine: int = 2**31  # ranks

    def slowest(self, op: Op) -> tuple[Line, float]:
        """The line that holds a transfer up, and its seconds. Groups that send side by side from machine to
        machine share the line there."""
        ways = [(self.inside, self.inside.seconds(op))]
        if self.between and op.reach > self.per_machine:
            together = op._replace(amount=op.amount * op.reach / op.ranks)
            ways.append((self.between, self.between.seconds(together)))
        return max(ways, key=lambda way: way[1])


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The line of (bytes sent, seconds) of single messages, by least squares of relative errors."""
    ones, sizes = [1 / s for _, s in points], [size / s for size, s in points]
    oo, os, ss = (sum(map(math.prod, zip(*of))) for of in ((ones, ones), (ones, sizes), (sizes, sizes)))
    apart = oo * ss - os * os
    alpha = max(0.0, (sum(ones) * ss - sum(sizes) * os) / apart) if len(points) > 1 else 0.0
    slope = (sum(sizes) - alpha * os) / ss
    return Line(1 / slope, alpha, spread=max(abs(alpha * o + slope * s - 1) for o, s in zip(ones, sizes)))


def sent(mode: str, network: Network, ranks: int, batch: float, element: int = 4) -> float:
    """Bytes that a rank sends in a step, on average over ranks."""
    if mode == "pipeline":  # one rank forward, the other backward
        ends = {row.stage: math.prod(row.gives) for row in trace(network)}
        return element * batch * network.towers * ends[network.convolutional - 1]
    return sum(op.amount for op in step_of(mode, network, ranks, batch, element) if op.kind in SENT)


def play(ops: Iterable[Op], profile: Profile, lines: Lines, pace: float = 1, stretch: float = 0) -> float:
    """Seconds until all is done; `pace` times as long to compute, to send longer by `stretch` spreads."""
    now = free = came = 0.0  # the rank; the line; the last of what is waited for
    for op in ops:
        if op.kind in SENT:
            line, seconds = lines.slowest(op)
            seconds *= 1 + stretch * line.spread
            free = max(now, free) + seconds
            now += line.handling * op.amount
            came = free if op.kind in ("exchange", "gather") else came
            now = max(now, free) if op.kind in ("exchange", "broadcast") else now
        elif op.kind == "copy":
            now += lines.inside.copying * op.amount
        elif op.kind == "wait":
            now = max(now, came)
        elif op.kind == "update":
            now = max(now, free) + pace * op.amount * profile.update
        else:
            now += pace * op.times * profile.seconds(op.kind, op.of, op.amount)
    return max(now, free)


def pipeline(network: Network, batch: float, element: int, clock: Callable[[list[Op]], float]) -> float:
    """Seconds of two ranks that hand parts of the batch on (GPipe): the first part goes through all, then the
    slowest of three, convolutions, link and the rest, sets the pace; of equals it is (m + n - 1) / m.
    `clock`: seconds of Ops."""
    first, part = network.convolutional, batch / MICROBATCHES
    rows = trace(network)
    before = {row.name for row in rows if row.stage < first} | {f"join{stage + 1}" for stage in range(first)}
    ops = step_of("single", network, 1, part)
    link = [Op("exchange", sent("pipeline", network, 2, part, element), ranks=2, reach=2)]
    total = 0.0
    for way in ("forward", "backward"):
        own = [[op for op in ops if op.kind == way and (op.of in before) == here] for here in (True, False)]
        times = [clock(own[0]), clock(link), clock(own[1])]
        total += sum(times) + (MICROBATCHES - 1) * max(times)
    held = [sum(row.parameters for row in rows if (row.stage < first) == here) for here in (True, False)]
    return total + clock([Op("update", network.towers * max(held))])
