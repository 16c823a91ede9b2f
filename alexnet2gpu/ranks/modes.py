"""The modes: which rank holds which towers of which replica.

A *replica* is a whole network's worth of ranks, `span` of them; replicas see different images, ranks of one
replica the same. Ranks are numbered replica by replica; n is the number of ranks that a replica is split
over:

    flags                 ranks  towers on a rank  span        between towers  averages gradients
    (none)                1      all               1           -               -
    --split-model         n      towers / n        n           exchange        -
    --ddp                 D      all               1           -               DDP, all ranks
    --split-model --ddp   n * D  1                 n = towers  exchange        DDP, ranks of one tower
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

MODES = ("single", "split", "ddp", "grid", "fsdp")  # fsdp is torch's, in tables of memory only


@dataclass(frozen=True)
class Grid:
    """One rank among all, and what it holds."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # among the ranks of this machine
    local_world: int = 1
    span: int = 1  # ranks that a replica is split over
    towers: range = range(1)  # held by this rank

    @property
    def replica(self) -> int:
        """The number of the replica that this rank belongs to."""
        return self.rank // self.span

    @property
    def replicas(self) -> int:
        """How many there are."""
        return self.world // self.span


def grid_of(towers: int, split: bool, ddp: bool, environment: Mapping = os.environ) -> Grid:
    """This rank, by the flags and by what torchrun says in the environment; without torchrun, the only one.

    Raises: ValueError if the number of processes does not suit the flags and the towers.
    """
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    rank, world, local_rank, local_world = (_number(environment, name, alone[name]) for name in alone)
    if world > 1 and "MASTER_ADDR" not in environment:
        raise ValueError(f"WORLD_SIZE is {world}, but not where ranks meet: start them by torchrun")
    if mistake := _mistake(towers, split, ddp, world, "WORLD_SIZE" in environment):
        raise ValueError(mistake)
    span = (towers if ddp else world) if split else 1
    share = towers // span
    first = rank % span * share
    return Grid(rank, world, local_rank, local_world, span, range(first, first + share))


def _number(environment, name, alone):
    try:
        return int(environment.get(name, alone))
    except ValueError:
        raise ValueError(f"{name} is {environment[name]!r}, no number: start ranks by torchrun") from None


def _mistake(towers, split, ddp, world, by_torchrun):
    """What is wrong with the number of processes, and a command that would do; None if nothing."""
    on = f"on {world} process{'es' * (world > 1)}"
    start = "torchrun --standalone --nproc_per_node={} launch/train.py "
    if split and towers == 1:
        return "--split-model cannot split a network of 1 tower: leave it out, or set model.towers"
    if split and ddp and world % towers:
        way_out = start.format(2 * towers) + "--split-model --ddp"
        return f"--split-model --ddp {on}: {towers} towers need {towers} a replica: {way_out}"
    if split and not ddp and (world == 1 or towers % world):
        numbers = " or ".join(str(n) for n in range(2, towers + 1) if towers % n == 0)
        more = "; for replicas add --ddp" if world % towers == 0 and world > 1 else ""
        way_out = start.format(towers) + "--split-model" + more
        return f"--split-model {on}: {towers} towers divide over {numbers}: {way_out}"
    if ddp and not by_torchrun:
        return f"--ddp needs several processes: {start.format(2)}--ddp"
    if world > 1 and not (split or ddp):
        return f"{world} processes but no mode: add --split-model, --ddp or both"
    return None
