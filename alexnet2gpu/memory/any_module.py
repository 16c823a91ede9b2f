"""The memory of a training step of any module, under any of torch's optimizers, on one device or in parallel,
with nothing started and nothing allocated.

    from alexnet2gpu.memory import How, estimate
    batch = ((32, 3, 224, 224), torch.float32), ((32,), torch.int64)
    one = estimate(torchvision.models.resnet50, *batch, partial(torch.optim.Adam, lr=1e-3))
    one.peak, one.bytes, one.worst.place
    many = estimate(torchvision.models.resnet50, *batch, torch.optim.Adam, How("fsdp", ranks=16))
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from alexnet2gpu.memory.caching import with_reserved
from alexnet2gpu.memory.play import Estimate, Played, play
from alexnet2gpu.memory.stand_ins import Buckets, fake_mesh

MODES = ("single", "ddp", "fsdp", "zero1")
OURS = ("split", "grid", "hybrid")
MOST_RANKS = 1024


@dataclass(frozen=True)
class How:
    """How a step is done.

    mode        single; ddp: DistributedDataParallel with gradient_as_bucket_view=True (without, it holds
                gradients twice); fsdp: FSDP2's fully_shard; zero1: ddp, with ZeroRedundancyOptimizer, which
                has a parameter's state on one rank only
    ranks       among which the batch is shared out: 32 images on 8 ranks are 4 on each
    device      "cpu", or "cuda", for which no GPU is needed
    autocast    the type in which is computed, such as torch.bfloat16
    accumulate  so many passes over parts of the batch to an update
    bucket_mb   MiB of a bucket of ddp and zero1
    wrap        of fsdp: whether a module is sharded on its own; by default see `shard`
    """

    mode: str = "single"
    ranks: int = 1
    device: str = "cpu"
    autocast: torch.dtype | None = None
    accumulate: int = 1
    bucket_mb: float = 25
    wrap: Callable[[nn.Module], bool] | None = None

    def __post_init__(self):
        if self.mode in OURS:
            raise ValueError(f"mode {self.mode} is for networks of this project: python launch/memory.py")
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is none of {', '.join(MODES)}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device {self.device!r} is neither cpu nor cuda")
        counts = all(type(number) is int for number in (self.ranks, self.accumulate))
        if not counts or not 1 <= self.ranks <= MOST_RANKS or self.accumulate < 1:
            raise ValueError(f"ranks has to be 1 to {MOST_RANKS}, accumulate at least 1")
        if self.bucket_mb <= 0:
            raise ValueError(f"bucket_mb has to be more than 0, not {self.bucket_mb}")
        if not isinstance(self.autocast, torch.dtype | None):
            raise ValueError(f"autocast has to be a type such as torch.bfloat16, not {self.autocast!r}")
        if self.mode == "single" and self.ranks > 1:
            raise ValueError("mode single has 1 rank: take ddp, fsdp or zero1")


def estimate(
    make_model: Callable[[], nn.Module],
    inputs: Any,
    targets: Any = None,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    how: How = How(),
) -> Estimate:
    """What the rank that holds most holds in a step: forward, loss, backward, update; in the steady state,
    with the optimizer's state there and gradients None before it. What the module gives, and the loss, stay
    until the step is over, as in a usual loop.

    Args:
        make_model: makes the module.
        inputs: its argument, or a list of them: tensors, of which nothing is read, or (shape, dtype), of the
            batch over all ranks, images first.
        targets: of cross-entropy, likewise; without, the loss is the sum of what the module gives.
        make_optimizer: of the module's parameters; without, there is none.

    Returns: bytes: `.peak`, as torch's allocator would report it, scratch memory included, at the moment
        `.worst`; `.moments`, in order, each with its `.place` (pass, module), its `.bytes` at worst and their
        `.parts` by kind (play.py names them); `.bytes` of weights, buffers, optimizer, gradients, buckets,
        batch, saved_activations, scratch, peak, and on "cuda" what the allocator has `reserved`.

    Raises: ValueError if a batch cannot be shared out, or if fsdp is asked for in a process that has a
        process group; whatever the module raises.
    """
    if isinstance(make_model, nn.Module):
        raise ValueError("make_model: a class or a function that makes the module, not the module itself")
    mesh = fake_mesh(how.ranks) if how.mode == "fsdp" else contextlib.nullcontext()
    with mesh as ranks:
        made = partial(_played, make_model, inputs, targets, make_optimizer, how, ranks)
        found = play(made, how.device)
    return with_reserved(found) if how.device == "cuda" else found


def _played(make_model, inputs, targets, make_optimizer, how, mesh):
    model = make_model()
    if any(type(parameter) is nn.Parameter for parameter in model.parameters()):
        raise ValueError("make_model has to make the module: it gave one that is there already")
    model.train()
    if how.mode == "fsdp":
        shard(model, mesh, how.wrap)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    make_optimizer = make_optimizer or partial(torch.optim.SGD, lr=0.0)
    optimizer = make_optimizer(_largest_part(parameters, how.ranks) if how.mode == "zero1" else parameters)
    if how.device == "cuda":  # where torch's optimizers work on all parameters at once
        for group in optimizer.param_groups:
            if "foreach" in group and group["foreach"] is None and not group.get("fused"):
                group["foreach"] = True
    batch = [_without_data(each, how) for each in _arguments(inputs)]
    labels = None if targets is None else _without_data(targets, how)
    _step(model, optimizer, batch, labels, how)  # makes the state of parameters that a gradient reaches
    optimizer.zero_grad(set_to_none=True)
    model.zero_grad(set_to_none=True)
    buckets = Buckets(how.bucket_mb)
    if how.mode in ("ddp", "zero1"):
        buckets.hold(model)
    state = tree_leaves(list(optimizer.state.values()))
    there = {
        "weights": model.parameters(),
        "buffers": model.buffers(),
        "optimizer": [leaf for leaf in state if isinstance(leaf, Tensor)],
        buckets.kind: buckets.tensors,
        "batch": [*tree_leaves(batch), *([] if labels is None else [labels])],
    }
    return Played(model, optimizer, partial(_step, model, optimizer, batch, labels, how, buckets), there)


def _step(model, optimizer, batch, labels, how, buckets=None):
    """One update, in so many passes."""
    for number in range(how.accumulate):
        part = partial(_part, number=number, of=how.accumulate)
        device = next(model.parameters()).device.type
        alone = buckets and number < how.accumulate - 1
        with buckets.no_sync() if alone else contextlib.nullcontext():
            with torch.autocast(device, how.autocast, enabled=how.autocast is not None):
                output = model(*tree_map(part, batch))
                loss = _loss(output, None if labels is None else part(labels))
            loss.backward()
    optimizer.step()


def _loss(output, labels):
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not tensors:
        raise ValueError("the module gives no tensor of which there could be a loss")
    if labels is None:
        return sum(tensor.sum() for tensor in tensors)
    return F.cross_entropy(tensors[0], labels)


def _part(tensor, number, of):
    return tensor if of == 1 else tensor.chunk(of)[number]


def _arguments(inputs):
    return inputs if isinstance(inputs, list) else [inputs]


def _without_data(given, how):
    """A rank's share of a batch that is given as a tensor or as (shape, dtype)."""
    share = how.ranks * how.accumulate
    try:
        (count, *rest), dtype = (given.shape, given.dtype) if isinstance(given, Tensor) else given
    except (TypeError, ValueError):
        raise ValueError(
            "inputs and targets: a tensor or (shape, dtype), inputs also a list of them"
        ) from None
    if count % share:
        raise ValueError(f"a batch of {count} does not divide by {how.ranks} ranks x {how.accumulate} passes")
    made = torch.empty(count // how.ranks, *rest, dtype=dtype)
    last = isinstance(given, Tensor) and given.dim() == 4 and not given.is_contiguous()
    return made.contiguous(memory_format=torch.channels_last) if last else made


def shard(model: nn.Module, mesh: Any, wrap: Callable[[nn.Module], bool] | None = None) -> None:
    """FSDP2 as its tutorial has it, in place: every module that `wrap` accepts, then the rest. By default,
    every one that has parameters of its own; attention, which calls no module within it, as a whole."""
    from torch.distributed.fsdp import fully_shard

    attention = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    within = {part for whole in attention for part in list(whole.modules())[1:]}
    for module in reversed(list(model.modules())[1:]):
        own = any(True for _ in module.parameters(recurse=False)) and module not in within
        if wrap(module) if wrap else own:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _largest_part(parameters, ranks):
    """The parameters whose state the rank with most of it has: ZeroRedundancyOptimizer gives each to the rank
    that has least, the largest first."""
    parts = [(0, []) for _ in range(ranks)]
    for parameter in sorted(parameters, key=Tensor.numel, reverse=True):
        number = min(range(ranks), key=lambda rank: parts[rank][0])
        size, own = parts[number]
        parts[number] = size + parameter.numel(), [*own, parameter]
    return max(parts, key=lambda part: part[0])[1]
