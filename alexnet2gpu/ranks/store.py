"""The store by which ranks meet: torchrun's own, which outlives them.

Raises: RuntimeError, from all of its functions, if it does not answer.
"""

import os
from datetime import timedelta

import torch.distributed as dist

STORE_PATIENCE = timedelta(seconds=5)


def store(patience: timedelta = STORE_PATIENCE) -> dist.Store:
    """A connection of its own to the ranks' part of the store. Each start by torchrun has a new part, since
    torchrun leaves there what an earlier one said, addresses of dead ranks among it (seen in torch 2.14)."""
    return _part(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", patience)


def store_of_all_starts() -> dist.Store:
    """The part that the ranks which torchrun started, and all that it has started anew after a failure
    (--max-restarts), have in common."""
    return _part(f"all starts of {os.environ.get('TORCHELASTIC_RUN_ID', '')}", STORE_PATIENCE)


def _part(name, patience):
    whole, _, _ = next(dist.rendezvous("env://", timeout=patience))
    return dist.PrefixStore(name, whole)
