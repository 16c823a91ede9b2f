"""Checkpoints: a directory with one file per tower, so that any mode can resume from any other.

    checkpoints/step-00000093/
        tower-0.pt      {"weights": {name: tensor}, "velocity": {name: tensor}}
        tower-1.pt
        state.json      step, and what the run was: batch, seed, network, versions

The union of the tower files is the network; nothing is sliced, gathered or renamed. The ranks of
replica 0 write their own towers; every rank reads those that it holds. No random state is kept,
since none is needed (seeds.py).

A checkpoint is written beside its place, flushed to the disk and then renamed: it is there whole
or not at all. The directory must be one that all ranks see.
"""

import json
import os
import pickle
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from alexnet2gpu import strict
from alexnet2gpu.config import Config
from alexnet2gpu.data.images import Images
from alexnet2gpu.model import AlexNet
from alexnet2gpu.network import Network, trace
from alexnet2gpu.optim import SGD2012
from alexnet2gpu.ranks import Ranks

# What torch.load and a look at its result raise, if a file is not the one that `save` wrote.
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError,
              pickle.UnpicklingError)
WAY_OUT = "delete this checkpoint's directory to go on from the one before"


def save(folder: Path, state: dict, model: AlexNet, optimizer: SGD2012, ranks: Ranks) -> None:
    """Write `folder`/step-N, with N and the run's `identity` in `state`. Every rank calls it."""
    final = folder / f"step-{state['step']:08d}"
    partial = folder / f".{final.name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    if ranks.grid.replica == 0:
        names = {parameter: name for name, parameter in model.named_parameters()}
        for index, tower in model.towers.items():
            parameters = list(tower.parameters())
            content = {
                "weights": {names[p]: p.detach().cpu() for p in parameters},
                "velocity": {names[p]: optimizer.state[p]["velocity"].cpu() for p in parameters},
            }
            with open(partial / f"tower-{index}.pt", "wb") as file:
                torch.save(content, file)
                _flush(file)
    ranks.wait()  # for all towers to be written
    if ranks.grid.rank == 0:
        for index in range(state["model"]["towers"]):
            if not (partial / f"tower-{index}.pt").exists():
                raise OSError(f"{partial}: no tower-{index}.pt: do all ranks see this directory?")
        with open(partial / "state.json", "w") as file:
            json.dump({**state, "torch": torch.__version__}, file, indent=1)
            _flush(file)
        if final.exists():  # left over by a prune that did not end, or by a run that was here
            shutil.rmtree(final)
        os.rename(partial, final)
    ranks.wait()


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints."""
    for state in sorted(folder.glob("step-*/state.json"))[:-keep]:
        state.unlink()  # first: from now on it is no checkpoint
        shutil.rmtree(state.parent)


def identity(config: Config, images: Images) -> dict:
    """What must stay the same for a run to go on: the network, how its steps are counted, and the
    images, as far as their number and their labels tell."""
    labels = np.ascontiguousarray(images.labels, np.int64)
    return {
        "model": strict.plain(config.model),
        "train.batch": config.train.batch,
        "train.seed": config.train.seed,
        "data.name": config.data.name,
        "training images": len(images),
        "training labels": f"crc32 {zlib.crc32(labels):08x}",
    }


def resume(run: Path, identity: dict, network: Network, towers: Iterable[int]) -> tuple[int, dict]:
    """The step of a run's newest checkpoint, and what `read` gives of it.

    Raises: ValueError if there is none, if it is unreadable, or of a run of another identity.
    """
    checkpoint = newest(run)
    try:
        state = json.loads((checkpoint / "state.json").read_text())
        step, found = state["step"], {key: state[key] for key in identity}
    except UNREADABLE as error:
        raise ValueError(f"{checkpoint}: unreadable checkpoint: {error!r}: {WAY_OUT}") from None
    for key, value in identity.items():
        if found[key] != value:
            raise ValueError(
                f"{checkpoint} was made with another {key}: start a new run, or undo the change"
            )
    return step, read(checkpoint, network, towers)


def newest(folder: Path) -> Path:
    """The newest checkpoint of a run's directory, or of its `checkpoints`; one itself is that one.

    Raises: ValueError if there is none.
    """
    for place in (folder, folder / "checkpoints"):
        if (place / "state.json").is_file():
            return place
        found = sorted(place.glob("step-*/state.json"))
        if found:
            return found[-1].parent
    raise ValueError(f"{folder}: there is no checkpoint yet: start anew, in another directory")


def config_of(checkpoint: Path) -> Path:
    """The config of a checkpoint's run. Raises: ValueError if it is not beside it."""
    file = checkpoint.resolve().parents[1] / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{checkpoint}: there is no {file}: say which config with --config FILE")
    return file


def read(checkpoint: Path, network: Network, towers: Iterable[int]) -> dict[str, dict]:
    """The {"weights": ..., "velocity": ...} of some towers, on the CPU, by the model's names.

    Raises: ValueError if a file is missing, unreadable or of another network.
    """
    both = {"weights": {}, "velocity": {}}
    for index in towers:
        file, expected = checkpoint / f"tower-{index}.pt", _shapes(network, index)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            for kind, tensors in both.items():
                shapes = {name: tuple(tensor.shape) for name, tensor in content[kind].items()}
                if shapes != expected:
                    raise ValueError("it holds another network")
                tensors.update(content[kind])
        except UNREADABLE as error:
            raise ValueError(f"{file}: unreadable checkpoint: {error}: {WAY_OUT}") from None
    return both


def _shapes(network, index):
    """Parameter name -> shape, for a tower."""
    shapes = {}
    for row in trace(network):
        if row.parameters:
            name = f"towers.{index}.{row.name}"
            shapes[f"{name}.weight"] = row.layer.weight_shape(row.reads, row.gives)
            shapes[f"{name}.bias"] = row.gives[:1]
    return shapes


@torch.no_grad()
def restore(content: dict[str, dict], model: AlexNet, optimizer: SGD2012 | None = None) -> None:
    """Copy what `read` gave into the model and, if there is one, its optimizer."""
    for name, parameter in model.named_parameters():
        parameter.copy_(content["weights"][name])
        if optimizer is not None:
            optimizer.state[parameter]["velocity"].copy_(content["velocity"][name])


def _flush(file):
    file.flush()
    os.fsync(file.fileno())
