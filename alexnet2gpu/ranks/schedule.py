"""What a rank does in a training step, in order, on paper: any mode, number of ranks, batch. cost.py says how
long that takes.

    forward, backward   a layer, on so many images
    exchange            waited for at once: activations, of which the next layer is made
    gather, wait        sent ahead, and waited for later: FSDP's weights
    sum, scatter        gradients, on their way while the rank goes back; only the update waits for them
    broadcast           zero1's updated weights, waited for at once
    copy                FSDP's, of what was gathered, and of what is to be scattered
    update              of so many parameters

Sums go in DDP's buckets: a bucket leaves when it is full (1 MB, then 25 MB) and its last gradient is there.
The order is that of backward, so fully connected layers, 96 % of the bytes, leave first.

    single    nothing is sent                   hybrid    convolutions as ddp, the rest as split
    split     an exchange after every stage     tensor    the same, by DTensor
    ddp       a sum of all gradients            pipeline  convolutions on one rank, the rest on the other
    grid      both                              fsdp      weights are gathered twice, gradients scattered
    zero1     ddp; then updated weights are sent out, since torch's optimizer comes after DDP's sum

Left out: exchange.overlap, memory.regather and recompute, train.accumulate, optim.fc_updates, reading images;
logits count as activations, though they travel exactly. No torch.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from alexnet2gpu.config.network import Network, trace

TIMED = "single", "split", "ddp", "grid", "hybrid", "fsdp", "zero1", "pipeline", "tensor"
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # bytes: torch's DDP
WEIGHT = 4  # bytes of a weight or of its gradient


class Op(NamedTuple):
    """One thing that a rank does."""

    kind: str
    amount: float = 0  # images; parameters; bytes that the rank sends
    of: str = ""  # the layer
    times: float = 1  # towers
    ranks: int = 1  # that send to each other
    reach: int = 1  # from the first of them to the last


class Place(NamedTuple):
    """A stage on a rank: towers that it holds, images that it sees, ranks that its end is gathered over,
    ranks that sum its gradients."""

    towers: float
    images: float
    joins: int
    sums: int


def unsuited(mode: str, towers: int, ranks: int, batch: int, mixed: bool = True) -> str:
    """Why a mode cannot be, in words; "" if it can. `mixed`: config/network.py."""
    if mode in ("hybrid", "pipeline", "tensor") and not mixed:
        return "the network has no stages of convolutions apart from others"
    copies = {"ddp": ranks, "zero1": ranks, "fsdp": ranks, "hybrid": ranks, "tensor": ranks}.get(mode, 1)
    if mode == "grid":
        copies = ranks // towers
        if towers == 1 or ranks % towers or copies < 2:
            return f"{towers} towers do not make replicas of {ranks} ranks"
    if mode in ("split", "hybrid") and (ranks == 1 or towers % ranks):
        return f"{towers} towers do not divide over {ranks} rank{'s' * (ranks > 1)}"
    if mode == "pipeline" and ranks != 2:
        return "is of 2 ranks"
    if mode != "single" and ranks < 2:
        return "has 2 ranks or more"
    return f"batch {batch} does not divide by {copies}" if batch % copies else ""


def places(mode: str, network: Network, ranks: int, batch: float) -> list[Place]:
    """Of each stage, the same on every rank."""
    towers, stages = network.towers, len(network.stages)
    span = {"split": ranks, "grid": towers}.get(mode, 1)
    copies = ranks // span
    whole = [Place(towers / span, batch / copies, span, copies)] * stages
    first = network.convolutional
    if mode not in ("hybrid", "tensor") or not first:
        return whole
    *rest, last = whole[:first]
    return [*rest, last._replace(joins=ranks), *[Place(towers / ranks, batch, ranks, 1)] * (stages - first)]


def step_of(mode: str, network: Network, ranks: int, batch: float, element: int = 4) -> list[Op]:
    """A step on `batch` images of all ranks together, but of pipeline. `element`: bytes of an activation, and
    of its gradient, as they travel."""
    ranks = 1 if mode == "single" else ranks
    forward, backward, held, stages = [], [], 0, {}
    for row in trace(network):
        stages.setdefault(row.stage, []).append(row)
    for (stage, rows), place in zip(stages.items(), places(mode, network, ranks, batch)):
        join = {"amount": place.images, "of": f"join{stage + 1}"}
        towers = max(1, round(place.towers))
        layer = partial(Op, amount=place.images, times=place.towers / towers)
        half = element * math.prod(rows[-1].gives) * place.towers * place.images
        swap = [Op("exchange", (place.joins - 1) * half, "", 1, place.joins, place.joins)]
        swap = swap if place.joins > 1 else []
        forward += [layer("forward", of=row.name) for _ in range(towers) for row in rows]
        forward += [Op("forward", **join), *swap]
        back = [Op("backward", **join), *(swap if stage < len(stages) - 1 else ())]
        for row in rows[::-1] * towers:
            back.append(layer("backward", of=row.name))
            size = WEIGHT * row.parameters * place.towers / towers
            held += size / WEIGHT
            if size and place.sums > 1:
                back.append(Op("gradient", size, row.name, 1, place.sums, ranks))
        backward = back + backward
    ops = [*forward, Op("forward", place.images, "loss"), *backward]
    if mode == "fsdp":
        ops = _in_parts(ops)
    else:
        ops = _in_buckets(ops, *((FIRST_BUCKET, BUCKET) if mode not in ("hybrid", "tensor") else (0, 0)))
    parts = ranks if mode in ("fsdp", "zero1") else 1
    out = [_sent("broadcast", WEIGHT * held, ranks, ranks)] if mode == "zero1" else []
    return [*ops, Op("update", held / parts), *out]


def _sent(kind, size, ranks, reach):
    """What a ring sends of `size` bytes: of a sum twice as much, since it is scattered and gathered."""
    return Op(kind, (2 if kind == "sum" else 1) * size * (ranks - 1) / ranks, "", 1, ranks, reach)


def _in_buckets(ops: Sequence[Op], cap: int, others: int) -> Iterator[Op]:
    """Gradients as sums of buckets that hold `cap` bytes, or as little more as a layer is, the first one."""
    held, last = 0, None
    for op in ops:
        if op.kind != "gradient":
            yield op
            continue
        held, last = held + op.amount, op
        if held >= cap:
            yield _sent("sum", held, op.ranks, op.reach)
            held, cap = 0, others
    if held:
        yield _sent("sum", held, last.ranks, last.reach)


def _in_parts(ops: Sequence[Op]) -> Iterator[Op]:
    """FSDP2's step: the weights of the next layer that has some come while a layer is computed."""
    sizes = {op.of: op for op in ops if op.kind == "gradient"}
    coming = [sizes[op.of] for op in ops if op.kind in ("forward", "backward") and op.of in sizes]
    gathers = (_sent("gather", op.amount, op.ranks, op.reach) for op in coming)
    yield from [next(gathers)] if coming else []
    for op in ops:
        if op.kind == "gradient":
            yield Op("copy", op.amount)
            yield _sent("scatter", op.amount, op.ranks, op.reach)
            continue
        if op.of in sizes:
            yield Op("wait")
            yield Op("copy", sizes[op.of].amount)
            yield from [ahead] if (ahead := next(gathers, None)) else []
        yield op
