"""The bars: how fast a step has to be. Ratios hold for any GPU, milliseconds and images a second for an H100.

batch  bar
128    TF32 at least 2 times as fast as the ordinary port in TF32, bfloat16 at least 4 times
both   at least as fast as torchvision's smaller network with the same treatment
128    on an H100 at most 4.5 ms in TF32, 2.9 ms in bfloat16
1024   on an H100 at least 33,000 images/s in bfloat16
"""

from typing import NamedTuple

MOST_MS = {("TF32", 128): 4.5, ("bfloat16", 128): 2.9}
LEAST_SPEED = {("bfloat16", 1024): 33_000}
TIMES_THE_PORT = {("TF32", 128): 2.0, ("bfloat16", 128): 4.0}


class Bar(NamedTuple):
    """A figure and what it has to be at least, or at most; without the figure it is missed."""

    name: str
    value: float | None
    bound: float
    most: bool = False

    @property
    def cleared(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.bound if self.most else self.value >= self.bound

    def __str__(self):
        value = "nothing measured" if self.value is None else f"{self.value:.4g}"
        return f"{self.name} {value}, {'at most' if self.most else 'at least'} {self.bound:g}"


def bars(ms: dict[str, float], batch: int, device: str, arithmetics: tuple[str, ...]) -> list[Bar]:
    """Those for the milliseconds of contenders (race.py) on a device; none on the CPU. Of us and of
    torchvision the quicker of two counts, with a graph or without; of the ordinary port that without."""
    if device == "cpu":
        return []
    found = []
    for arithmetic in arithmetics:
        case = arithmetic, batch
        ours, other = (quickest(ms, f"{who}, {arithmetic}") for who in ("ours", "torchvision"))
        if case in TIMES_THE_PORT:
            name = f"{arithmetic}, times as fast as the port"
            found.append(Bar(name, ratio(ms.get("port, TF32"), ours), TIMES_THE_PORT[case]))
        found.append(Bar(f"{arithmetic}, times as fast as torchvision", ratio(other, ours), 1.0))
        if "H100" in device and case in MOST_MS:
            found.append(Bar(f"{arithmetic}, ms", ours, MOST_MS[case], most=True))
        if "H100" in device and case in LEAST_SPEED:
            found.append(Bar(f"{arithmetic}, images/s", ours and 1000 * batch / ours, LEAST_SPEED[case]))
    return found


def quickest(ms, name):
    return min((ms[each] for each in (name, f"{name}, graph") if each in ms), default=None)


def ratio(theirs, ours):
    return theirs / ours if theirs and ours else None


def judged(figures: dict, batch: int, device: str, arithmetics: tuple[str, ...]) -> dict:
    """The item's result."""
    found = bars(figures["ms"], batch, device, arithmetics)
    missed = [str(bar) for bar in found if not bar.cleared]
    if found:  # also a graph that cannot be recorded, however fast steps are without
        lost = figures.get("left out", {}).items()
        missed = [f"{name}: {why}" for name, why in lost if name.startswith("ours")] + missed
    said = {"bars": [{**bar._asdict(), "cleared": bar.cleared} for bar in found]}
    result = {"figures": figures | said, "threshold": "; ".join(map(str, found)) or None}
    result |= {"passed": not missed if found else None}
    return result | ({"error": f"missed: {'; '.join(missed)}"[:400]} if missed else {})
