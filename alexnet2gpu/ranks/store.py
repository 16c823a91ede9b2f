"""The store by which ranks meet: torchrun's own, which outlives them."""

import os
from datetime import timedelta

import torch.distributed as dist

STORE_PATIENCE = timedelta(seconds=5)


def store(patience: timedelta = STORE_PATIENCE) -> dist.Store:
    """A connection of its own to the store by which ranks meet. Each start by torchrun has its own
    part of it, since torchrun leaves there what an earlier start said, addresses of dead ranks
    among it (seen in torch 2.14).

    Raises: RuntimeError if it does not answer.
    """
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
    return dist.PrefixStore(f"start {start}", _whole_store(patience))


def store_of_all_starts() -> dist.Store:
    """The part that the ranks which torchrun started, and all that it has started anew after a
    failure (--max-restarts), have in common. Raises: RuntimeError if it does not answer."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return dist.PrefixStore(f"all starts of {run}", _whole_store(STORE_PATIENCE))


def _whole_store(patience):
    found, _, _ = next(dist.rendezvous("env://", timeout=patience))
    return found
