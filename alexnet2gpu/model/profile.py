"""What a machine takes for each layer of one tower, as data: timing.py measures it, ranks/cost.py uses it.

A layer has its shapes and, forward and backward, a few points [images, seconds]. Between two points seconds
lie on the line through them; beyond the ends on that through the last two. What is counted on paper, divided
by a processor's peak, would say less: libraries have other kernels for other shapes, some of which multiply
less than is counted (Winograd's).

Besides layers there are `join1`, `join2`, ... (the ends of stages, where halves are put side by side, of all
towers), `loss`, and the update, in seconds a parameter. Kept as JSON, some in configs/profiles. No torch.
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from alexnet2gpu.config.load import PLACES
from alexnet2gpu.config.network import Network, trace


@dataclass(frozen=True, eq=False)
class Profile:
    """Seconds of one process alone. `spread`: those of the quickest and the slowest round to the median."""

    device: str
    source: str  # where the numbers are from
    threads: int
    cores: int  # of the machine, that its ranks share; 0: each has a GPU of its own
    precision: str
    update: float
    layers: dict[str, dict]  # name -> reads, gives (shapes), forward, backward (points)
    spread: tuple[float, float] = (1.0, 1.0)
    links: dict = field(default_factory=dict)  # of cost.Lines, where they were measured

    def seconds(self, way: str, name: str, images: float) -> float:
        """A layer's, `way` forward or backward."""
        return max(0.0, on_lines(self.layers[name][way], images)) if images else 0.0

    def scaled(self, factor: float) -> "Profile":
        """The same of a machine that is so much slower."""

        def slower(layer):
            ways = {way: [[at, s * factor] for at, s in layer[way]] for way in ("forward", "backward")}
            return {**layer, **ways}

        layers = {name: slower(layer) for name, layer in self.layers.items()}
        return replace(self, update=self.update * factor, layers=layers)

    def check(self, network: Network) -> None:
        """Raises: ValueError if a layer of the network was not measured, or has other shapes."""
        rows, none = trace(network), (None, None)
        shapes = {row.name: (list(row.reads), list(row.gives)) for row in rows}
        shapes |= {f"join{row.stage + 1}": none for row in rows} | {"loss": none}
        for name, wanted in shapes.items():
            known = self.layers.get(name)
            if known is None or (known.get("reads"), known.get("gives")) != wanted:
                way_out = "--profile here measures it"
                raise ValueError(f"--profile: is of another network, without this {name}: {way_out}")

    def write(self, file: Path) -> None:
        """As JSON, a layer a line."""
        text = json.dumps(asdict(self) | {"layers": {}}, indent=1)
        lines = (f"  {json.dumps(name)}: {json.dumps(layer)}" for name, layer in self.layers.items())
        body = "{\n" + ",\n".join(lines) + "\n }"
        Path(file).write_text(text.replace('"layers": {}', f'"layers": {body}') + "\n")


def read(file: str) -> Profile:
    """A profile's file, or the name of one in configs/profiles. Raises: ValueError if it is not one."""
    shipped = [place / "configs" / "profiles" / f"{file}.json" for place in PLACES]
    found = [path for path in (Path(file), *shipped) if path.is_file()]
    if not found:
        names = sorted(path.stem for place in PLACES for path in place.glob("configs/profiles/*.json"))
        raise ValueError(f"--profile {file}: there is no such file; there are here, {', '.join(names)}")
    try:
        profile = Profile(**json.loads(found[0].read_text()))
        _check(profile)
        return profile
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"--profile {file}: is no profile: {error!r}") from None


def _check(profile):
    """Raises: one of some errors, if a field is not what it should be."""
    low, high = profile.spread
    seconds = [low, high, profile.update, profile.threads, profile.cores]
    for points in (layer[way] for layer in profile.layers.values() for way in ("forward", "backward")):
        images = [0, *(at for at, _ in points)]
        if not all(before < after < math.inf for before, after in zip(images, images[1:])):
            raise ValueError("images should increase from point to point")
        seconds += [s for _, s in points]
    if not all(0 <= number < math.inf for number in seconds) or low > high:
        raise ValueError("a number is too small, or too large")
    if not isinstance(profile.device + profile.source, str) or not isinstance(profile.links, dict):
        raise TypeError("device and source should be text, links a section")


def on_lines(points: list[list[float]], x: float) -> float:
    """y at x: on the line through the two points around x, or nearest to it; through 0 if there is only one;
    0 if there is none."""
    if len(points) < 2:
        return sum(y * x / at for at, y in points)
    right = next((n for n, (at, _) in enumerate(points) if at >= x), len(points) - 1)
    (x0, y0), (x1, y1) = points[max(right, 1) - 1 : max(right, 1) + 1]
    return y0 + (x - x0) * (y1 - y0) / (x1 - x0)
