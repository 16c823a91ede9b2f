"""Bytes that one training step really holds on this rank: by category, layer by layer, at worst.

    weights             the parameters
    gradients           the `.grad` that backward leaves; under DDP they may lie in its buckets
    momentum            the velocities
    buckets             DDP's
    batch               images and labels
    saved_activations   what the forward pass leaves for backward: what autograd keeps, and logits
    peak                the most that was held at any moment of the step, all of these included
    reserved            (CUDA only) the most that the caching allocator has taken from the driver

With bfloat16, what autograd keeps includes autocast's copies of the weights. On CUDA the figures
are the caching allocator's. On the CPU they are counted from the tensors themselves: every storage
that an operation returns is in a ledger until it dies. Not in the ledger: scratch memory inside an
operation, what the communication library copies, tensors that outlast the step and are not in the
list above (the mean image), Python and the libraries themselves. Autograd adds two gradients of
one tensor in place; not so under the ledger's eyes, so a join's backward counts one more there.
"""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alexnet2gpu.memory.places import START, Place, Places
from alexnet2gpu.model import AlexNet


class StepMemory:
    """A context around one training step.

    Args:
        model: whose parameters and gradients count.
        replicated: what the step calls: the model, or DDP around it.
        optimizer: with a `velocity` in the state of each parameter.
        batch: the tensors that the step is given.

    Afterwards:
        bytes: by category, see above.
        saved: of the saved activations, by (tower, layer) that made them; empty on CUDA.
        moments: the most that was held in every place, in order of the step (places.py).
    """

    def __init__(
        self,
        model: AlexNet,
        replicated: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Sequence[Tensor],
    ):
        self.parameters, self.replicated, self.batch = list(model.parameters()), replicated, batch
        self.velocities = [optimizer.state[parameter]["velocity"] for parameter in self.parameters]
        self.places = Places(model, optimizer, self._arrive, self._forward_ends)
        self.bytes: dict[str, int] = {}
        self.moments: list[tuple[Place, int]] = []

    def __enter__(self):
        gradients = [] if self._in_buckets() else self._gradients()
        lasting = [*self.parameters, *self.velocities, *self.batch]
        buckets = isinstance(self.replicated, DistributedDataParallel)
        on_gpu = self.parameters[0].is_cuda
        self.meter = _Allocator() if on_gpu else _Ledger([*lasting, *gradients], buckets)
        self.meter.__enter__()
        self.place = self.meter.place = START
        self.places.__enter__()
        return self

    def __exit__(self, *error):
        self.places.__exit__(*error)
        self.meter.__exit__(*error)
        self._arrive(None)
        buckets = _bytes_of_buckets(self.replicated)
        unseen = buckets if isinstance(self.meter, _Ledger) else 0
        self.moments = [(place, held + unseen) for place, held in self.moments]
        self.bytes = {
            "weights": _total(self.parameters),
            "gradients": _total(self._gradients()),
            "momentum": _total(self.velocities),
            "buckets": buckets,
            "batch": _total(self.batch),
            "saved_activations": self.saved_activations,
            "peak": max(held for _, held in self.moments),
            **self.meter.more(),
        }

    def _gradients(self):
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def _in_buckets(self):
        return getattr(self.replicated, "gradient_as_bucket_view", False)

    def _arrive(self, place):
        """Note what was held at worst in the place before."""
        self.moments.append((self.place, self.meter.worst_since()))
        self.place = self.meter.place = place

    def _forward_ends(self):
        self.saved_activations, self.saved = self.meter.left_by_forward()


class _Allocator:
    """The caching allocator's own figures."""

    place: Place | None = None

    def __enter__(self):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self.reserved = self.before = 0

    def __exit__(self, *error):
        torch.cuda.synchronize()

    def worst_since(self):
        if self.place == START:
            self.before = torch.cuda.memory_allocated()
        worst = torch.cuda.max_memory_allocated()
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()
        return worst

    def left_by_forward(self):
        return torch.cuda.memory_allocated() - self.before, {}

    def more(self):
        return {"reserved": self.reserved}


class _Ledger(TorchDispatchMode):
    """Every storage that is given or that an operation makes, until it dies, with the place that
    made it. A storage is known by its id: torch keeps the Python object of a storage for as long
    as the storage itself lives.

    DDP's buckets are counted apart: they are made out of sight, or, at the start of the second
    step, in sight. FSDP gives storages another size outside of any operation, so sizes are read
    anew each time.
    """

    def __init__(self, given, buckets):
        super().__init__()
        self.place, self.buckets, self.entries, self.most = START, buckets, {}, 0
        for tensor in given:
            self._enter(_local(tensor).untyped_storage())

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
        worst, self.most = max(self.most, self._read()), 0
        self._read()
        return worst

    def left_by_forward(self):
        """Bytes of what was made in the forward pass and is there, in all and by who made it."""
        made = {}
        for storage, (passing, *maker) in self._living():
            if passing == "forward":
                made[tuple(maker)] = made.get(tuple(maker), 0) + storage.nbytes()
        return sum(made.values()), made

    def more(self):
        return {}

    def _enter(self, storage):
        key = id(storage)
        if key not in self.entries:
            gone = weakref.ref(storage, lambda _: self.entries.pop(key, None))
            self.entries[key] = gone, self.place

    def _living(self):
        found = [(storage(), place) for storage, place in list(self.entries.values())]
        return [(storage, place) for storage, place in found if storage is not None]

    def _read(self):
        held = sum(storage.nbytes() for storage, _ in self._living())
        self.most = max(self.most, held)
        return held


def _bytes_of_buckets(replicated):
    """As DDP notes them; after its first step it makes them anew, in the order of backward."""
    if not isinstance(replicated, DistributedDataParallel):
        return 0
    data = replicated._get_ddp_logging_data()
    sizes = data.get("rebuilt_bucket_sizes") or data["bucket_sizes"]
    return sum(int(size) for size in sizes.split(","))


def _storages(tree):
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _local(tensor):
    """Under FSDP, where it is a DTensor, this rank's part of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _total(tensors):
    return sum(_local(tensor).nbytes for tensor in tensors)
