"""A ledger of storages: every one that is there before a step, or that an operation makes, until its end; and
the worst moment in every place of the step.

Autograd adds two gradients of one tensor in place where nobody else has the first, and where that is no view.
While it is watched it makes a third. So such a sum counts from when one of the two has gone.
"""

import sys
import weakref
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alexnet2gpu.memory.places import START, Place
from alexnet2gpu.memory.scratch import scratch_of
from alexnet2gpu.model.optim import local


@dataclass(eq=False)
class Storage:
    """Memory of a tensor and of all its views. Moments are numbered from 1; 0 is before the step."""

    bytes: int
    kind: str  # play.py names them
    place: Place  # in which it was made
    born: int  # the number of the moment in which it was made
    died: int | None = None  # and in which it ended


@dataclass
class Moment:
    """The worst in a place of the step, as it came there once."""

    place: Place
    bytes: int
    at: int  # so many events before it
    parts: dict[str, int] = field(default_factory=dict)  # by kind of storage


class Ledger(TorchDispatchMode):
    """`events`: each storage's making (True) and end (False), in order. `moments`: of every place in which
    something was made. A storage is known by its id: torch keeps the Python object of a storage for as long
    as the storage itself lives."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.place, self.held = device, START, 0
        self.entries, self.events, self.moments = {}, [], []
        self.arrived, self.pending = False, None

    def give(self, kind: str, tensors) -> None:
        """Enter what is there before the step."""
        for tensor in tensors:
            if entry := self._enter(_storage(local(tensor)), kind):
                entry.born = 0

    def arrive(self, place: Place) -> None:
        """From now on, in this place."""
        self.place, self.arrived = place, True

    def entry_of(self, tensor: Tensor) -> Storage | None:
        """What is known of a tensor's storage."""
        return self.entries.get(id(local(tensor).untyped_storage()), (None, None))[1]

    def __enter__(self):
        self.resize, ledger = torch.UntypedStorage.resize_, self

        def resize_(storage, size):  # as FSDP does, outside of any operation
            kind = ledger._leave(id(storage))
            resized = ledger.resize(storage, size)
            ledger._enter(storage, kind or "gathered weights")
            return resized

        torch.UntypedStorage.resize_ = resize_
        return super().__enter__()

    def __exit__(self, *error):
        torch.UntypedStorage.resize_ = self.resize
        super().__exit__(*error)
        self._settle()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(hasattr(kind, "to_local") for kind in types):
            return NotImplemented  # DTensors, for which it comes again with local tensors
        self._settle()
        if function.namespace == "aten" and not function._schema.returns:
            return None  # it works in place: makes nothing, and without data has nothing to do
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        given = {id(storage) for storage in _storages((args, kwargs))}
        made = [storage for storage in _storages(result) if id(storage) not in given]
        add = function is torch.ops.aten.add.Tensor and not args[0]._is_view()
        if made and add and self._of_the_engine():
            self.pending = weakref.ref(made[0]), given
            return result
        narrow = function is torch.ops.aten._to_copy.default and self.entry_of(args[0])
        for storage in made:
            self._enter(storage, "narrow weights" if narrow and narrow.kind == "weights" else "")
        if size := scratch_of(function, args, self.device):
            entry = self._new(size, "scratch")
            self._count(entry, True)
            self._count(entry, False)
        return result

    def _of_the_engine(self):
        """Whether it is autograd's engine that adds, and no Python code within a node."""
        frame = sys._getframe(2)
        while frame.f_globals["__name__"] in ("torch._compile", "torch._dynamo.eval_frame"):
            frame = frame.f_back  # around every dispatch mode
        return frame.f_code.co_name == "_engine_run_backward"

    def _settle(self):
        """Count a sum that has waited for one of its terms to go."""
        if self.pending:
            (made, _), self.pending = self.pending, None
            if made() is not None:
                self._enter(made(), "")

    def _new(self, size, kind):
        if self.arrived or not self.moments:
            self.arrived = False
            self.moments.append(Moment(self.place, self.held, len(self.events)))
        return Storage(size, kind, self.place, len(self.moments))

    def _enter(self, storage, kind):
        key = id(storage)
        if key in self.entries or not storage.nbytes():
            return None
        entry = self._new(storage.nbytes(), kind)
        self.entries[key] = weakref.ref(storage, lambda _: self._leave(key)), entry
        self._count(entry, True)
        return entry

    def _leave(self, key):
        _, entry = self.entries.pop(key, (None, None))
        if entry is None:
            return ""
        self._count(entry, False)
        if self.pending and key in self.pending[1]:
            self._settle()
        return entry.kind

    def _count(self, entry, born):
        self.events.append((entry, born))
        if not born:
            entry.died = len(self.moments)
        self.held += entry.bytes if born else -entry.bytes
        moment = self.moments[-1]
        if self.held > moment.bytes:
            moment.bytes, moment.at = self.held, len(self.events)

    def fill_moments(self) -> None:
        """Of each moment, what was held, by kind: all events once more."""
        held, count = Counter(), 0
        for moment in sorted(self.moments, key=lambda moment: moment.at):
            for storage, born in self.events[count : moment.at]:
                held[storage.kind] += storage.bytes if born else -storage.bytes
            count = moment.at
            moment.parts = {kind: size for kind, size in held.items() if size}


def _storages(tree):
    return [_storage(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor):
    if tensor.layout is not torch.strided:
        raise ValueError("a sparse tensor, as an embedding's sparse gradient, cannot be estimated")
    return tensor.untyped_storage()
