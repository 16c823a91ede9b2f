"""This rank's Grid, by the flags of a program and by what torchrun says in the environment."""

import os
from collections.abc import Mapping

from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.names import FLAGS


def mode_of(split: bool, ddp: bool, hybrid: bool) -> str:
    """The mode that flags name. Raises: ValueError if they do not go together."""
    if hybrid and (split or ddp):
        raise ValueError("--hybrid: is a mode of its own: leave --split-model and --ddp out")
    if hybrid:
        return "hybrid"
    return {(False, False): "single", (True, False): "split", (False, True): "ddp"}.get((split, ddp), "grid")


def grid_of(
    towers: int, mode: str, environment: Mapping = os.environ, program: str = "launch/train.py"
) -> Grid:
    """This rank, by the mode and by what torchrun says in the environment; without torchrun, the only one.
    `program`: to be named where another number of processes is needed.

    Raises: ValueError if the number of processes does not suit the mode and the towers.
    """
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    rank, world, local_rank, local_world = (_number(environment, name, alone[name]) for name in alone)
    if world > 1 and "MASTER_ADDR" not in environment:
        raise ValueError(f"WORLD_SIZE is {world}, but not where ranks meet: start them by torchrun")
    if mistake := _mistake(towers, mode, world, "WORLD_SIZE" in environment, program):
        raise ValueError(mistake)
    return grid_at(mode, towers, rank, world, local_rank, local_world)


def grid_at(mode: str, towers: int, rank: int, world: int, local_rank: int, local_world: int) -> Grid:
    """A rank of a mode that so many ranks can have."""
    span = {"split": world, "hybrid": world, "grid": towers}.get(mode, 1)
    share = towers // span
    first = rank % span * share
    parts = span if mode == "hybrid" else 1
    return Grid(rank, world, local_rank, local_world, span, range(first, first + share), parts)


def _number(environment, name, alone):
    try:
        return int(environment.get(name, alone))
    except ValueError:
        raise ValueError(f"{name} is {environment[name]!r}, no number: start ranks by torchrun") from None


def _mistake(towers, mode, world, by_torchrun, program):
    """What is wrong with the number of processes, and a command that would do; None if nothing."""
    flags = FLAGS[mode]
    on = f"{flags} on {world} process{'es' * (world > 1)}"
    start = f"torchrun --standalone --nproc_per_node={{}} {program} {flags}"
    if mode in ("split", "grid", "hybrid") and towers == 1:
        flag = flags.split()[0]
        return f"{flag} cannot split a network of 1 tower: leave it out, or set model.towers"
    if mode == "grid" and world % towers:
        return f"{on}: {towers} towers need {towers} a replica: {start.format(2 * towers)}"
    if mode in ("split", "hybrid") and (world == 1 or towers % world):
        numbers = " or ".join(str(n) for n in range(2, towers + 1) if towers % n == 0)
        more = "; for replicas add --ddp" if mode == "split" and world % towers == 0 and world > 1 else ""
        return f"{on}: {towers} towers divide over {numbers}: {start.format(towers)}{more}"
    if mode == "ddp" and not by_torchrun:
        return f"--ddp needs several processes: {start.format(2)}"
    if world > 1 and mode == "single":
        return f"{world} processes but no mode: add --split-model, --ddp, both, or --hybrid"
    return None
