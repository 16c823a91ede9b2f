"""Bytes that one training step holds on this rank, by category.

    weights             the parameters
    gradients           the `.grad` that backward leaves; under DDP they lie in its buckets
    momentum            the velocities
    batch               images and labels
    saved_activations   what autograd keeps for backward, weights and batch apart
    peak                the most that was held at any moment of the step, all of these included
    reserved            (CUDA only) the most that the caching allocator has taken from the driver

With bfloat16, what autograd keeps includes autocast's copies of the weights. On CUDA the peak is
the caching allocator's. On the CPU it is counted from the tensors themselves: every storage that
an operation returns is in a ledger until it dies. Not in the ledger: scratch memory inside an
operation, what the communication library copies, tensors that outlast the step and are not in the
list above (the mean image), Python and the libraries themselves.
"""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StepMemory:
    """A context around one training step; afterwards `bytes` has the figures.

    Args:
        model: whose parameters and gradients count.
        optimizer: with a `velocity` in the state of each parameter.
        batch: the tensors that the step is given.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Sequence[Tensor]
    ):
        self.parameters, self.batch = list(model.parameters()), batch
        self.velocities = [optimizer.state[parameter]["velocity"] for parameter in self.parameters]
        self.bytes: dict[str, int] = {}

    def __enter__(self):
        lasting = [*self.parameters, *self.velocities, *self.batch]
        self.lasting = {id(tensor.untyped_storage()) for tensor in lasting}
        self.saved = {}
        on_gpu = self.parameters[0].is_cuda
        self.peak = _CudaPeak() if on_gpu else _Ledger([*lasting, *self._gradients()])
        self.hooks = saved_tensors_hooks(self._note_saved, lambda tensor: tensor)
        self.peak.__enter__()
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)
        self.peak.__exit__(*error)
        gradients = self._gradients()
        self.bytes = {
            "weights": _total(self.parameters),
            "gradients": _total(gradients),
            "momentum": _total(self.velocities),
            "batch": _total(self.batch),
            "saved_activations": sum(self.saved.values()),
            **self.peak.bytes(gradients),
        }

    def _gradients(self):
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def _note_saved(self, tensor):
        storage = tensor.untyped_storage()
        if id(storage) not in self.lasting:
            self.saved[id(storage)] = storage.nbytes()
        return tensor.detach()  # not the tensor itself, which would hold its own node in a cycle


class _CudaPeak:
    """The caching allocator's own figures."""

    def __enter__(self):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def __exit__(self, *error):
        torch.cuda.synchronize()

    def bytes(self, gradients):
        return {
            "peak": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
        }


class _Ledger(TorchDispatchMode):
    """Every storage that is `given` or that an operation returns, from then until it dies. A
    storage is known by its id: torch keeps the Python object of a storage for as long as the
    storage itself lives."""

    def __init__(self, given):
        super().__init__()
        self.entries, self.live, self.most = {}, 0, 0
        for tensor in given:
            self._enter(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._enter(value)
        return result

    def bytes(self, gradients):
        most = self.most
        for gradient in gradients:  # DDP made its buckets before the step, out of sight
            most += self._enter(gradient)
        return {"peak": most}

    def _enter(self, tensor):
        """Enter a tensor's storage; returns the bytes that this adds."""
        storage = tensor.untyped_storage()
        if id(storage) in self.entries:
            return 0
        size = self.entries[id(storage)] = storage.nbytes()
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._strike, id(storage)).atexit = False
        return size

    def _strike(self, key):
        self.live -= self.entries.pop(key)


def _total(tensors):
    return sum(tensor.nbytes for tensor in tensors)
