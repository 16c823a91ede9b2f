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
not whole towers. Those of convolutions, few weights and much to compute, are on every rank, all towers, for
1/n of the images, and gradients are summed (summed.py); fully connected ones, many weights, are as in the
split. Between the two ranks gather images, elsewhere channels. torchrun.py makes a rank's Grid of the flags.
"""

from dataclasses import dataclass

from alexnet2gpu.config.network import Network

IMAGES, CHANNELS = 0, 1  # axes of activations (B, C, ...)


@dataclass(frozen=True)
class Grid:
    """One rank among all, and what it holds."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # among the ranks of this machine
    local_world: int = 1
    span: int = 1  # ranks that a replica is split over
    towers: range = range(1)  # held by this rank; in the hybrid, of fully connected stages
    parts: int = 1  # that a replica's images are in: in the hybrid a rank's convolutions see one of `span`

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
        if self.parts > 1 and not network.mixed:
            kinds = "fully connected layers" if replicated == stages else "convolutions before dropout"
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
