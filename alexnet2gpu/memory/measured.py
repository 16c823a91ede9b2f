"""Bytes that one training step really holds on this rank, as torch's allocator gives them: by category, and
the most in every place of the step.

    weights             the parameters, and what else the model keeps
    gradients           the `.grad` that backward leaves
    momentum            the velocities
    buckets             DDP's, where gradients do not lie in them
    batch               images and labels
    saved_activations   what the forward pass leaves for backward: what autograd keeps, and logits
    peak                the most that was held at any moment of the step, all of these included

and on CUDA, where the figures are the caching allocator's, of what it was asked for,

    other               there before the step and none of these: cuBLAS's workspaces, mean image, images that
                        are kept on the GPU
    allocated           the peak as the allocator gives it out, in pieces of 512 bytes
    reserved            the most that the allocator has taken from the driver, by 2 and 20 MiB and more

On the CPU each allocation of the step is seen by torch's profiler, scratch memory within operations too. Not
counted there: what operations take outside of torch's allocator, what threads of the communication library
take, tensors that outlast the step and are not in the list above (the mean image), Python and the libraries.

The step is measured as it runs without a graph (model/graph.py), in whose pool the same tensors lie, and what
its two streams cannot share.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import ProfilerConfig, ProfilerState, _disable_profiler_legacy, _enable_profiler_legacy
from torch.nn.parallel import DistributedDataParallel

from alexnet2gpu.memory.places import START, Place, Places, without_garbage
from alexnet2gpu.model.optim import local
from alexnet2gpu.ranks.assemble import Parts

MARK = "place "


class StepMemory:
    """A context around one training step, of `parts` whose optimizer has a `velocity` in the state of each
    parameter; gradients of an earlier step are let go before, unless the step adds to them. Afterwards:

        bytes     by category, see above
        moments   the most that was held in every place of the step in which something was taken
    """

    def __init__(self, parts: Parts, batch: Sequence[Tensor], adds: bool = False):
        self.parameters, self.replicated, self.batch = list(parts.model.parameters()), parts.replicated, batch
        self.velocities = [state["velocity"] for state in parts.optimizer.state.values()]
        self.adds, self.optimizer, self.in_buckets = adds, parts.optimizer, _in_buckets(parts.replicated)
        meter = _Allocator if self.parameters[0].is_cuda else Profile
        self.meter = meter()
        self.places = Places(parts.model, parts.optimizer, self.meter.arrive, self.meter.end_forward)
        self.bytes: dict[str, int] = {}
        self.moments: list[tuple[Place, int]] = []

    def __enter__(self):
        self.optimizer.zero_grad(set_to_none=not self.adds)
        there = [] if self.in_buckets else self._gradients()
        self.given = _total([*self.parameters, *self.velocities, *self.batch, *there])
        if isinstance(self.replicated, DistributedDataParallel):
            self.replicated.reducer._rebuild_buckets()  # as it does once, in its next step, not to be seen
        self.undisturbed = without_garbage()
        self.undisturbed.__enter__()
        self.meter.start()
        self.places.__enter__()
        return self

    def __exit__(self, *error):
        self.places.__exit__(*error)
        self.undisturbed.__exit__(*error)
        buckets = _bytes_of_buckets(self.replicated)
        self.meter.stop(self.given + buckets)
        if error[0] is not None:
            return
        gradients = buckets if self.in_buckets else _total(self._gradients())
        self.moments = self.meter.moments
        self.bytes = {
            "weights": _total(self.parameters),
            "gradients": gradients,
            "momentum": _total(self.velocities),
            "buckets": 0 if self.in_buckets else buckets,
            "batch": _total(self.batch),
            "saved_activations": self.meter.saved,
            "peak": max(held for _, held in self.moments),
        }
        self.bytes |= self.meter.more

    def _gradients(self):
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]


class Profile:
    """On the CPU: every allocation and release from `start` to `stop`, as torch's profiler has them; needs to
    be told of places. This profiler, which torch keeps for its own users of old, says nothing while it runs;
    torch.profiler says what it lacks, of GPUs, too."""

    def start(self):
        self.more, self.places, self.ends = {}, [START], None
        config = torch._C._profiler._ExperimentalConfig()
        _enable_profiler_legacy(ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, config))

    def arrive(self, place):
        with torch.autograd.profiler.record_function(f"{MARK}{len(self.places)}"):
            self.places.append(place)

    def end_forward(self):
        self.ends = len(self.places)

    def stop(self, given):
        events, held, place = _disable_profiler_legacy(), given, 0
        self.moments, self.saved, taken = [(START, held)], 0, False
        # of no thread, if the step ended before it came anywhere
        own = next((thread for thread in events if any(e.name() == f"{MARK}1" for e in thread)), ())
        for event in own:
            if event.kind() == "push" and event.name().startswith(MARK):
                place, taken = int(event.name().removeprefix(MARK)), False
                if place == self.ends:
                    self.saved = held - given
            elif event.kind() == "memory_alloc":
                held += event.cpu_memory_usage()
                if event.cpu_memory_usage() > 0 and not taken:
                    self.moments.append((self.places[place], held))
                    taken = True
                self.moments[-1] = (self.moments[-1][0], max(held, self.moments[-1][1]))


class _Allocator:
    """On CUDA: the caching allocator's own figures."""

    def start(self):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self.place, self.before, self.moments = START, _read("requested", "current"), []
        self.more, self.entered = {"allocated": 0, "reserved": 0}, 0

    def arrive(self, place):
        worst = _read("requested", "peak")
        if worst > self.entered:
            self.moments.append((self.place, worst))
        for name in ("allocated", "reserved"):
            self.more[name] = max(self.more[name], _read(name, "peak"))
        torch.cuda.reset_peak_memory_stats()
        self.place, self.entered = place, _read("requested", "current")

    def end_forward(self):
        self.saved = _read("requested", "current") - self.before

    def stop(self, given):
        torch.cuda.synchronize()
        self.arrive(None)
        self.more = {"other": self.before - given, **self.more}


def _read(what, when):
    """Bytes of torch.cuda.memory_stats."""
    return torch.cuda.memory_stats()[f"{what}_bytes.all.{when}"]


def _in_buckets(replicated):
    return getattr(replicated, "gradient_as_bucket_view", False)


def _bytes_of_buckets(replicated):
    if not isinstance(replicated, DistributedDataParallel):
        return 0
    data = replicated._get_ddp_logging_data()
    sizes = data.get("rebuilt_bucket_sizes") or data["bucket_sizes"]
    return sum(int(size) for size in sizes.split(","))


def _total(tensors):
    return sum(local(tensor).nbytes for tensor in tensors)
