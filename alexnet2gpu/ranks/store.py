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
    found, _, _ = next(dist.rendezvous("env://", timeout=patience))
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", found)
