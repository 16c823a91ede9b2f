"""Weights to start from: of a run, of a checkpoint, or of a file with a state dict (.pt, .pth, .safetensors).

A layer is taken if its tensors are there by their names, of the same shapes, in all towers; a classifier of
other classes is not. Layers that are not taken are drawn anew, as without them, and both are named.
"""

import json
import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import Network, trace
from alexnet2gpu.config.schema import build_section
from alexnet2gpu.faults import files
from alexnet2gpu.faults.mistakes import one_line
from alexnet2gpu.runs.checkpoints.format import newest_checkpoint, read_state
from alexnet2gpu.runs.checkpoints.towers import read_towers, shapes_of

MOST_NAMED = 3  # tensors of a file of which none fits


class Weights(NamedTuple):
    """What there is to start from, and where: tensors by name, the classes that they tell apart if that is
    known, checksums."""

    source: Path
    tensors: Mapping[str, Tensor]
    classes: Sequence[str] | None
    checksums: Mapping[str, str]


def read_weights(source: Path) -> Weights:
    """Raises: ValueError if there are none, or if they cannot be read."""
    if source.is_dir():
        checkpoint = newest_checkpoint(source)
        state = read_state(checkpoint)
        network = build_section(Config, state.config, "state.json").model
        towers = read_towers(checkpoint, network, range(network.towers))
        return Weights(source, towers["weights"], state.images.get("names"), state.towers)
    try:
        tensors, classes = _read_file(source)
        checksum = files.checksum_of(source)
    except ImportError as error:
        raise ValueError(f"--from {source}: {error}: pip install 'alexnet2gpu[export]'") from None
    except Exception as error:  # torch.load raises whatever it likes
        said = "not a file of weights" if isinstance(error, pickle.UnpicklingError | RuntimeError) else None
        raise ValueError(f"--from {source}: cannot be read: {said or one_line(error)}") from None
    return Weights(source, tensors, classes, {source.name: checksum})


def _read_file(source):
    open(source, "rb", opener=files.regular).close()
    if source.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(source, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about = opened.metadata() or {}
    else:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
        about = getattr(tensors, "_metadata", {}).get("", {})
        for key in ("state_dict", "model"):  # as others wrap it
            if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
                tensors = tensors[key]
    if not isinstance(tensors, dict):
        raise ValueError("is no state dict")
    found = {str(name).removeprefix("module."): of for name, of in tensors.items() if _is_dense(of)}  # of DDP
    if not found:
        raise ValueError("has no tensors of floating point numbers in it")
    return found, json.loads(about["classes"]) if "classes" in about else None


def _is_dense(tensor):
    if not torch.is_tensor(tensor) or not tensor.is_floating_point():
        return False
    return tensor.layout == torch.strided and tensor.device.type == "cpu"


def choose(
    weights: Weights, network: Network, towers: Sequence[int], classes: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], str]:
    """For some towers of a network that tells `classes` apart: what `towers.restore` takes, and in words,
    which layers it is. Raises: ValueError if it is none."""
    source = weights.source
    parts = defaultdict(dict)  # of each layer: name -> shape, of all towers
    for index in range(network.towers):
        for name, shape in shapes_of(network, index).items():
            parts[name.split(".")[2]][name] = shape
    last, anew, taken = trace(network)[-1].name, [], {}
    for layer, shapes in parts.items():
        found = {name: weights.tensors.get(name) for name in shapes}
        if layer == last and weights.classes is not None and list(weights.classes) != list(classes):
            anew.append(f"{layer} (its classes are others)")
        elif any(tensor is None for tensor in found.values()):
            anew.append(f"{layer} (not there)")
        elif any(tuple(found[name].shape) != shape for name, shape in shapes.items()):
            anew.append(f"{layer} (of another size)")
        elif not all(tensor.isfinite().all() for tensor in found.values()):
            raise ValueError(f"--from {source}: the weights of {layer} are not all finite")
        else:
            taken[layer] = found
    if not taken:
        there = ", ".join(list(weights.tensors)[:MOST_NAMED]) or "none"
        here = next(iter(shapes_of(network, 0)))
        raise ValueError(
            f"--from {source}: no layer fits: its tensors are {there}, ...; here they are {here}, ..."
        )
    own = tuple(f"towers.{index}." for index in towers)
    chosen = {name: tensor for of in taken.values() for name, tensor in of.items() if name.startswith(own)}
    said = f"weights from {source}: {', '.join(taken)}"
    return {"weights": chosen, "velocity": {}}, said + f"; drawn anew: {', '.join(anew)}" * bool(anew)
