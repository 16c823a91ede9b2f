"""The modes: which rank holds which towers of which replica, and which images it sees.

A *replica* is a whole network's worth of ranks, `span` of them; replicas see different images, ranks of one
replica the same. Ranks are numbered replica by replica; n is the number of ranks that a replica is split
over:

    flags                 mode    ranks  towers on a rank  span        between towers  averages gradients
    (none)                single  1      all               1           -               -
    --split-model         split   n      towers / n        n           exchange        -
    --ddp                 ddp     D      all               1           -               DDP, all ranks
    --split-model --ddp   grid    n * D  1                 n = towers  exchange        DDP, ranks of one tower
    --hybrid              hybrid  n      see below         n           exchange        -

The hybrid (Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks") places stages,
not whole towers. Those of convolutions, which have few weights and much to compute, are on every rank, all
towers of them, for 1/n of the images; gradients are summed over the ranks (summed.py). The fully connected
ones, which have many weights, are as in the split: a rank's own towers, all images. Between the two ranks
gather images where elsewhere they gather channels.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from alexnet2gpu.config.network import Network

FLAGS = {  # of the modes
    "single": "",
    "split": "--split-model",
    "ddp": "--ddp",
    "grid": "--split-model --ddp",
    "hybrid": "--hybrid",
}
IMAGES, CHANNELS = 0, 1  # axes of activations (B, C, ...)


@dataclass(frozen=True)
class Grid:
    """One rank among all, and what it holds."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # among the ranks of this machine
    local_world: int = 1
    span: int = 1  # ranks that a replica is split over
    towers: range = range(1)  # held by this rank; of the hybrid, in fully connected stages
    parts: int = 1  # of a replica's images, one for each of its ranks: of the hybrid, in other stages

    @property
    def replica(self) -> int:
        """The number of the replica that this rank belongs to."""
        return self.rank // self.span

    @property
    def replicas(self) -> int:
        """How many there are."""
        return self.world // self.span

    @property
    def part(self) -> int:
        """Which of the `parts` of its replica's images is this rank's."""
        return self.rank % self.parts

    @property
    def shares(self) -> int:
        """In how many the images of a batch are shared out over the ranks."""
        return self.replicas * self.parts

    @property
    def held(self) -> range:
        """The towers of which this rank holds any stage."""
        return range(self.parts * len(self.towers)) if self.parts > 1 else self.towers

    def placement(self, network: Network) -> list[range]:
        """Of each stage, the towers on this rank. Raises: ValueError if the network has none to replicate."""
        replicated, stages = network.convolutional, len(network.stages)
        if self.parts > 1 and not 0 < replicated < stages:
            kinds = "fully connected layers" if replicated else "convolutions before dropout"
            raise ValueError(f"--hybrid: model.stages has no stage of {kinds}: take --split-model")
        return [self.held] * replicated + [self.towers] * (stages - replicated)

    def gathered(self, network: Network) -> list[int | None]:
        """At the end of each stage, along which axis ranks gather what they have; None: not at all."""
        stages, replicated = len(network.stages), network.convolutional
        if self.span == 1:
            return [None] * stages
        if self.parts == 1:
            return [CHANNELS] * stages
        return [None] * (replicated - 1) + [IMAGES] + [CHANNELS] * (stages - replicated)


def mode_of(split: bool, ddp: bool, hybrid: bool) -> str:
    """The mode that flags name. Raises: ValueError if they do not go together."""
    if hybrid and (split or ddp):
        raise ValueError("--hybrid: is a mode of its own: leave --split-model and --ddp out")
    if hybrid:
        return "hybrid"
    return {(False, False): "single", (True, False): "split", (False, True): "ddp"}.get((split, ddp), "grid")


def grid_of(towers: int, mode: str, environment: Mapping = os.environ) -> Grid:
    """This rank, by the mode and by what torchrun says in the environment; without torchrun, the only one.

    Raises: ValueError if the number of processes does not suit the mode and the towers.
    """
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    rank, world, local_rank, local_world = (_number(environment, name, alone[name]) for name in alone)
    if world > 1 and "MASTER_ADDR" not in environment:
        raise ValueError(f"WORLD_SIZE is {world}, but not where ranks meet: start them by torchrun")
    if mistake := _mistake(towers, mode, world, "WORLD_SIZE" in environment):
        raise ValueError(mistake)
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


def _mistake(towers, mode, world, by_torchrun):
    """What is wrong with the number of processes, and a command that would do; None if nothing."""
    flags = FLAGS[mode]
    on = f"{flags} on {world} process{'es' * (world > 1)}"
    start = "torchrun --standalone --nproc_per_node={} launch/train.py " + flags
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
