"""Torch's own operations instead of ours, which keep less or are faster: where other tools want them."""

import torch

# Private to torch, which has no other word for it; where it is gone, transforms say what they lack.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def plain() -> bool:
    """Whether the network is being exported, for others to run without this package, or called within
    torch.func's transforms (vmap, grad, jvp), which take nothing else."""
    return torch.compiler.is_exporting() or _transforms_active()
