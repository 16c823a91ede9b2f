"""Bytes that one training step really holds on this rank: by category, layer by layer, at worst.

    weights             the parameters
    gradients           the `.grad` that backward leaves; under DDP they may lie in its buckets
    momentum            the velocities
    buckets             DDP's
    batch               images and labels
    saved_activations   what the forward pass leaves for backward: what autograd keeps, and logits
    peak                the most that was held at any moment of the step, all of these included

and on CUDA, where the figures are the caching allocator's, of what it was asked for,

    other               there before the step and none of these: cuBLAS's workspaces, mean image, images that
                        are kept on the GPU
    allocated           the peak as the allocator gives it out, in pieces of 512 bytes
    reserved            the most that the allocator has taken from the driver, by 2 and 20 MiB and more

The step is measured as it runs without a graph (model/graph.py), in whose pool the same tensors lie, and what
its two streams cannot share.

With bfloat16, what autograd keeps includes autocast's copies of the weights. On the CPU the figures are
counted from the tensors themselves (storages.py). Not counted there: what operations take outside torch's
allocator, what the communication library copies, tensors that outlast the step and are not in the list above
(the mean image), Python and the libraries. Autograd adds two gradients of one tensor in place; not so while
it is watched, so that the backward of a join may count one too many.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from alexnet2gpu.memory.measured.places import START, Place, Places
from alexnet2gpu.memory.measured.storages import Ledger, own_part
from alexnet2gpu.ranks.assemble import Parts


class StepMemory:
    """A context around one training step, of `parts` whose optimizer has a `velocity` in the state of each
    parameter. Afterwards:

        bytes     by category, see above
        saved     of the saved activations, by (tower, layer) that made them; empty on CUDA
        moments   the most that was held in every place, in order of the step (places.py)
    """

    def __init__(self, parts: Parts, batch: Sequence[Tensor]):
        self.parameters, self.replicated, self.batch = list(parts.model.parameters()), parts.replicated, batch
        self.velocities = [parts.optimizer.state[parameter]["velocity"] for parameter in self.parameters]
        self.places = Places(parts, self._arrive, self._end_forward)
        self.bytes: dict[str, int] = {}
        self.moments: list[tuple[Place, int]] = []

    def __enter__(self):
        in_buckets = getattr(self.replicated, "gradient_as_bucket_view", False)
        gradients = [] if in_buckets else self._gradients()
        given = [*self.parameters, *self.velocities, *self.batch, *gradients]
        if given[0].is_cuda:
            self.meter = _Allocator(_total(given) + _bytes_of_buckets(self.replicated))
        else:
            self.meter = Ledger(given, isinstance(self.replicated, DistributedDataParallel))
        self.meter.__enter__()
        self.places.__enter__()
        return self

    def __exit__(self, *error):
        self.places.__exit__(*error)
        self.meter.__exit__(*error)
        if error[0] is not None:
            return
        self._arrive(None)
        buckets = _bytes_of_buckets(self.replicated)
        unseen = buckets if isinstance(self.meter, Ledger) else 0
        self.moments = [(place, held + unseen) for place, held in self.moments]
        self.bytes = {
            "weights": _total(self.parameters),
            "gradients": _total(self._gradients()),
            "momentum": _total(self.velocities),
            "buckets": buckets,
            "batch": _total(self.batch),
            "saved_activations": self.saved_activations,
            "peak": max(held for _, held in self.moments),
        }
        if isinstance(self.meter, _Allocator):
            self.bytes |= {"other": self.meter.other, **self.meter.most}

    def _gradients(self):
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def _arrive(self, place):
        """Note what was held at worst in the place before."""
        self.moments.append((self.meter.place, self.meter.worst_since()))
        self.meter.place = place

    def _end_forward(self):
        self.saved_activations, self.saved = self.meter.left_by_forward()


class _Allocator:
    """The caching allocator's own figures; `given`: bytes of all that is known before the step."""

    def __init__(self, given):
        self.given, self.place = given, START

    def __enter__(self):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self.other = self._read("requested", "current") - self.given
        self.most, self.before = {"allocated": 0, "reserved": 0}, 0

    def __exit__(self, *error):
        torch.cuda.synchronize()

    def worst_since(self):
        if self.place == START:
            self.before = self._read("requested", "current")
        worst = self._read("requested", "peak")
        self.most = {name: max(most, self._read(name, "peak")) for name, most in self.most.items()}
        torch.cuda.reset_peak_memory_stats()
        return worst

    def left_by_forward(self):
        return self._read("requested", "current") - self.before, {}

    def _read(self, what, when):
        """Bytes of torch.cuda.memory_stats."""
        return torch.cuda.memory_stats()[f"{what}_bytes.all.{when}"]


def _bytes_of_buckets(replicated):
    if not isinstance(replicated, DistributedDataParallel):
        return 0
    data = replicated._get_ddp_logging_data()
    sizes = data.get("rebuilt_bucket_sizes") or data["bucket_sizes"]
    return sum(int(size) for size in sizes.split(","))


def _total(tensors):
    return sum(own_part(tensor).nbytes for tensor in tensors)
