"""Storages on the CPU, exactly: which live, how large each is, in what place of the step it was made."""

import weakref
from collections import Counter

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alexnet2gpu.memory.measured.places import START


class Ledger(TorchDispatchMode):
    """Every storage that is given or that an operation makes, until it dies, with the place that made it. A
    storage is known by its id: torch keeps the Python object of a storage for as long as the storage itself
    lives.

    DDP's buckets are counted apart: they are made out of sight, or, at the start of the second step, in
    sight. FSDP gives storages another size outside of any operation, so sizes are read anew each time."""

    def __init__(self, given, buckets):
        super().__init__()
        self.place, self.buckets, self.entries, self.most = START, buckets, {}, 0
        for tensor in given:
            self._enter(own_part(tensor).untyped_storage())

    def __enter__(self):
        self.resize = torch.UntypedStorage.resize_

        def resize_(storage, size):
            resized = self.resize(storage, size)
            self._enter(storage)
            self._read()
            return resized

        torch.UntypedStorage.resize_ = resize_
        self._read()
        return super().__enter__()

    def __exit__(self, *error):
        torch.UntypedStorage.resize_ = self.resize
        super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(hasattr(kind, "to_local") for kind in types):
            return NotImplemented  # DTensors, for which it comes again with local tensors
        result = function(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if id(storage) not in given and not (self.buckets and self.place == START):
                self._enter(storage)
        self._read()
        return result

    def worst_since(self):
        """The most since the last call."""
        held = self._read()
        worst, self.most = self.most, held
        return worst

    def left_by_forward(self):
        """Bytes of what was made in the forward pass and is there, in all and by who made it."""
        made = Counter()
        for storage, (passing, tower, layer) in self._living():
            if passing == "forward":
                made[tower, layer] += storage.nbytes()
        return made.total(), made

    def _enter(self, storage):
        key = id(storage)
        if key not in self.entries:
            gone = weakref.ref(storage, lambda _: self.entries.pop(key, None))
            self.entries[key] = gone, self.place

    def _living(self):
        found = [(storage(), place) for storage, place in list(self.entries.values())]
        return [entry for entry in found if entry[0] is not None]

    def _read(self):
        held = sum(storage.nbytes() for storage, _ in self._living())
        self.most = max(self.most, held)
        return held


def _storages(tree):
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def own_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that FSDP2 has shared out over ranks; else the tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
