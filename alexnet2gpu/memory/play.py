"""A training step played without data: the step itself, on tensors that have shape, type and layout but no
memory (torch's FakeTensorMode), with every storage counted from its making to its end (ledger.py).

So nothing about a layer is written down here: what autograd keeps, what a layer makes and how long it lives
is what torch does. Only what operations take and give back within themselves is in a table, scratch.py.

Storages are of a kind:

    weights, buffers, optimizer, batch      there before the step
    gradients                               of weights; in DDP's buckets, if they lie there
    buckets                                 DDP's, if gradients do not lie in them
    activations                             made going forward, for the way back
    narrow weights                          autocast's copies of weights among them
    gathered weights                        FSDP's, of all ranks
    gradients of activations                made going back, for a place that comes later
    temporary                               gone before the step comes to another place
    scratch                                 within one operation
"""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet2gpu.memory.ledger import Ledger, Moment, Storage
from alexnet2gpu.memory.places import LOSS, Places, without_garbage
from alexnet2gpu.model.device import played_on

MERSENNE_TWISTER = 5056  # bytes of the state of a generator of random numbers


class Played(NamedTuple):
    """A step to be played, all of tensors without data."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], object]
    there: Mapping[str, Iterable[Tensor]]  # before it, by kind


@dataclass(frozen=True)
class Estimate:
    """What a rank holds in a step, in bytes."""

    bytes: dict[str, int]  # by category
    saved: dict[str, int]  # of the saved activations, by the module that made them
    moments: list[Moment]  # the worst in every place of the step, in order
    events: list[tuple[Storage, bool]]  # each storage's making (True) and end, in order

    @property
    def peak(self) -> int:
        """The most that is held, as torch's allocator would report it."""
        return self.worst.bytes

    @property
    def worst(self) -> Moment:
        """The moment of the peak."""
        return max(self.moments, key=lambda moment: moment.bytes)


def play(make: Callable[[], Played], device: str = "cpu") -> Estimate:
    """Play the step that `make` makes, as on a "cpu" or on a "cuda"."""
    with played_on(device), _fake_mode(), _Numbers(), _stand_ins(device):
        model, optimizer, step, there = make()
        ledger = Ledger(device)
        for kind, tensors in there.items():
            ledger.give(kind, tensors)
        parameters = list(model.parameters())

        def name(parameter):
            entry = None if parameter.grad is None else ledger.entry_of(parameter.grad)
            if entry and not entry.kind:
                entry.kind = "gradients"

        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(name)
        places = Places(model, optimizer, ledger.arrive)
        with without_garbage(), ledger, places:
            step()
        for parameter in parameters:
            name(parameter)
        return _told(ledger)


@contextlib.contextmanager
def _fake_mode():
    """Tensors without data; those with data that are used along with them are taken for such. Whatever there
    is to warn of, it is for the real step to do."""
    as_it_is = patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad(), as_it_is:
        warnings.simplefilter("ignore")
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield


@contextlib.contextmanager
def _stand_ins(device):
    """Of torch, what does not work, or is not seen, on tensors without data."""
    state = partial(torch.empty, MERSENNE_TWISTER if device == "cpu" else 0, dtype=torch.uint8)

    class Generator(torch.Generator):
        def get_state(self):
            return state()

        def set_state(self, state):
            pass

    with (
        patch.object(nn.Module, "_apply", _convert),
        patch.object(torch, "Generator", Generator),
        patch.object(torch, "get_rng_state", state),
        patch.object(torch, "set_rng_state", lambda state: None),
    ):
        yield


class _Numbers(TorchDispatchMode):
    """A number that is asked of a tensor without data is 1, or nearly (Adam's count of steps, and what NAdam
    subtracts from 1); a truth is false: nothing is nan."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            return {torch.bool: False}.get(args[0].dtype, 0.99 if args[0].is_floating_point() else 1)
        return function(*args, **(kwargs or {}))


def _convert(module, function, recurse=True):
    """nn.Module._apply, which is behind `to` and its like, and cannot swap tensors without data."""
    for child in module.children() if recurse else ():
        _convert(child, function)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None and (new := function(parameter)) is not parameter:
                module._parameters[name] = nn.Parameter(new, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else function(buffer)
    return module


def _told(ledger):
    """Of the step that a ledger has seen."""
    born = [storage for storage, is_born in ledger.events if is_born]
    given = [storage.kind for storage in born if storage.born == 0]
    saved, scratch = Counter(), 0
    sizes = dict.fromkeys([*given, "gradients", "buckets"], 0)
    *_, end = [0, *(at for at, moment in enumerate(ledger.moments, start=1) if moment.place == LOSS)]
    for storage in born:
        storage.kind = _kind(storage, ledger.moments)
        kept = storage.place[0] == "forward" and (storage.died is None or storage.died >= end)
        if kept and storage.kind in ("activations", "narrow weights"):  # from the last pass on
            saved[storage.place[1]] += storage.bytes
        elif storage.born == 0 or storage.kind == "gradients" and storage.died is None:
            sizes[storage.kind] += storage.bytes
        elif storage.kind == "scratch":
            scratch = max(scratch, storage.bytes)
    ledger.fill_moments()
    peak = max(moment.bytes for moment in ledger.moments)
    sizes |= {"saved_activations": saved.total(), "scratch": scratch, "peak": peak}
    return Estimate(dict(sizes), dict(saved), ledger.moments, list(ledger.events))


def _kind(storage, moments):
    """Of a storage, known from where it is used or from how long it lived."""
    narrow = storage.kind == "narrow weights"
    if storage.kind and not narrow:
        return storage.kind
    if storage.place[0] == "forward" and storage.place != LOSS:
        end = LOSS if storage.died is None else moments[storage.died - 1].place
        saved = end[0] != "forward" or end == LOSS
        return "temporary" if not saved else storage.kind or "activations"
    lives_on = storage.died is None or storage.died > storage.born
    return storage.kind or ("gradients of activations" if lives_on else "temporary")
