"""Modes against one device: the same losses and velocities in float64, over a few steps."""

import torch

from alexnet2gpu.memory.predict import grid_here, parts_of
from alexnet2gpu.model.step import How, train_step
from alexnet2gpu.ranks.groups import Ranks
from bench.gpu.cases import NO_DROPOUT, alone, batch_of, config_of
from bench.gpu.items import Item, at_most, largest, noted

STEPS, BATCH, LIMIT = 3, 16, 1e-9
CASES = {  # name: (mode, ranks, dropout, settings that change no result)
    "split, dropout on": ("split", 2, True, []),
    "split, dropout off": ("split", 2, False, []),
    "DDP, dropout off": ("ddp", 2, False, []),
    "grid, dropout off": ("grid", 4, False, []),
    "hybrid, dropout on": ("hybrid", 2, True, []),
    "split, overlap": ("split", 2, True, ["exchange.overlap=true"]),
    "split, regather": ("split", 2, True, ["memory.regather=true"]),
    "split, recompute": ("split", 2, True, ["memory.recompute=[1]"]),
    "split, bfloat16 wire": ("split", 2, True, ["exchange.precision=bfloat16"]),
}


def items():
    return [Item(f"equal: {name}", equal, (name,), CASES[name][1], 45) for name in CASES]


def equal(name):
    """On a rank: the largest differences of losses (relative) and of velocities (|a - b| / |b|) from one
    device, over all ranks. What a bfloat16 wire rounds is not judged."""
    mode, _, dropout, settings = CASES[name]
    plain = config_of(*([] if dropout else NO_DROPOUT), batch=BATCH, precision="float64")
    config = config_of(*([] if dropout else NO_DROPOUT), *settings, batch=BATCH, precision="float64")
    grid = grid_here(mode, config.model.towers)
    with Ranks(grid) as ranks:
        figures = compared(mode, plain, config, ranks)
        said = {"backend": ", ".join(ranks.backends), "device": ranks.device_name()}
    if config.exchange.precision:
        return noted(figures | said)
    return at_most(LIMIT, figures, **said)


def compared(mode, plain, config, ranks):
    """A function of its own, since models must be gone when the ranks end."""
    losses, velocities = trained(*alone(plain, ranks.device), plain, ranks, together=False)
    _, *together = parts_of(mode, config, ranks)
    theirs, others = trained(*together, config, ranks)
    loss = (theirs / losses - 1).abs().max().item()
    velocity = [
        ((v - velocities[name]).norm() / velocities[name].norm()).item() for name, v in others.items()
    ]
    found = ranks.gather((loss, largest(velocity)))
    return dict(zip(("losses", "velocities"), map(largest, zip(*found))))


def trained(model, optimizer, config, ranks, together=True):
    """Losses of some steps, means over all images, and velocities by parameters' names. `together`: with the
    other ranks; else all images on this one."""
    replica, replicas = (ranks.grid.replica, ranks.grid.replicas) if together else (0, 1)
    images, labels = batch_of(config, ranks.device, replica, replicas)
    if together:
        images = images.chunk(ranks.grid.parts)[ranks.grid.part]
    own = getattr(model, "module", model)  # of DDP
    losses = []
    for step in range(STEPS):
        own.seed_dropout(config.train.seed, replica, step)
        losses.append(train_step(model, optimizer, images, labels, How(config.train.precision))[0])
    losses = torch.stack(losses)
    if together:
        losses = ranks.sum_over_replicas(losses) / replicas
    return losses, {name: optimizer.state[p]["velocity"] for name, p in own.named_parameters()}
