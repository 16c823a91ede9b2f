"""Arms of the ablations as data (arms.yaml), and the config of each: its base, with a few things changed."""

import copy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.load import read_config
from alexnet2gpu.config.schema import build_section, parse_yaml, plain_tree, put_value

HERE = Path(__file__).parent
GRID = 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0  # of rates, for all arms
BASE = "base"


@dataclass(frozen=True)
class Arm:
    """What is changed."""

    without: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)
    images: str = "crops"
    rates: list[float] = field(default_factory=list)  # empty: those of the suite
    modes: list[str] = field(default_factory=lambda: ["single"])


@dataclass(frozen=True)
class Suite:
    """A base and its arms, on one set of images."""

    config: str
    arms: dict[str, Arm]
    images: str | None = None  # where data.py has put them; null: what the config names
    seeds: int = 10
    threads: int = 1  # those of one thread are trained side by side
    rates: list[float] = field(default_factory=lambda: [0.003, 0.01, 0.03])
    fastest: bool = False  # whether a rate is chosen by the training error, over all epochs


@dataclass(frozen=True)
class Claim:
    """That `worse` err more than the base, or that `same` do not; and by whom."""

    says: str
    by: str
    published: str = "none"  # what it was elsewhere
    worse: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)


@cache
def suites() -> dict[str, Suite]:
    """By name, as in arms.yaml. Raises: ValueError if it has what is not known."""
    return build_section(dict[str, Suite], _tree()["suites"], "suites")


@cache
def claims() -> list[Claim]:
    """As in arms.yaml. Raises: ValueError if it has what is not known, or names an arm that there is not."""
    found = build_section(list[Claim], _tree()["claims"], "claims")
    known = {arm for suite in suites().values() for arm in suite.arms}
    if unknown := [arm for claim in found for arm in (*claim.worse, *claim.same) if arm not in known]:
        raise ValueError(f"claims: no arm {unknown[0]}")
    return found


def _tree():
    return parse_yaml((HERE / "arms.yaml").read_text())


def config_of(suite: Suite, arm: Arm, rate: float, seed: int) -> Config:
    """With the base's schedule scaled so that it begins at `rate`. Raises: ValueError if it cannot be."""
    tree = copy.deepcopy(_base(suite.config))
    tree["model"]["stages"] = _stages(tree["model"]["stages"], arm)
    for key, value in arm.set.items():
        put_value(tree, key, value)
    if arm.images == "centre":
        tree["data"]["crop"] = None
    first = tree["optim"]["schedule"][0]["weights"]
    for change in tree["optim"]["schedule"]:
        kinds = [kind for kind in ("weights", "biases") if change[kind]]
        change |= {kind: float(f"{change[kind] / first * rate:.6g}") for kind in kinds}
    tree["train"] |= {"seed": seed, "log_every": 10**6, "save_minutes": None}  # a line an epoch
    return build_section(Config, tree)


@cache
def _base(file):
    return plain_tree(read_config(HERE / file))


def _stages(stages, arm):
    begins = arm.stages or [next(iter(stage)) for stage in stages]
    changed = []
    for name, layer in (named for stage in stages for named in stage.items()):
        if name in begins:
            changed.append({})
        if name not in arm.without:
            change = arm.layers.get(name, {})
            kind = arm.kinds.get(layer["type"], layer["type"])
            changed[-1][name] = change if "type" in change else {**layer, "type": kind, **change}
    return [stage for stage in changed if stage]
