"""Checkpoints: a directory with one file per tower, so that any mode can resume from any other.

    checkpoints/step-00000093/
        tower-0.pt      {"weights": {name: tensor}, "velocity": {name: tensor}}
        tower-1.pt
        state.json      how far the run had come, its config, versions, checksums of the towers; sealed
                        (faults/files.py)
    checkpoints/best    a link to the one with the smallest top-1 error

The union of the tower files is the network; nothing is sliced, gathered or renamed. The ranks of replica 0
write their own towers; every rank reads those that it holds. No random state is kept: what is drawn next
depends on the seed and the step alone (config/seeds.py).
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet2gpu.config import schema
from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import Network, trace
from alexnet2gpu.faults import files
from alexnet2gpu.faults.mistakes import one_line
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012

FORMAT = 2  # of state.json and of the tower files; changes when an older program cannot read them


class Damaged(ValueError):
    """A checkpoint that is not whole, or is not as it was written."""


@dataclass
class Progress:
    """How far a run has come, beside the tensors."""

    step: int = schema.bounded(0, least=0)  # steps done; the place in the epoch follows from it
    recent: tuple[tuple[float, float], ...] = ()  # loss and error of each since metrics.jsonl's last line
    evaluation: dict[str, int | float] | None = None  # at this step: epoch, figures; None: not done yet
    best: dict[str, int | float] | None = None  # step and top-1 error of the best evaluation so far


def newest_checkpoint(folder: str | Path) -> Path:
    """The newest checkpoint of a run's directory, or of its `checkpoints`; one itself is that one. Raises:
    ValueError if there is none."""
    for within in (Path(folder), Path(folder, "checkpoints")):
        if (within / "state.json").is_file():
            return within
        if found := sorted(within.glob("step-*/state.json")):
            return found[-1].parent
    raise ValueError(f"{folder}: there is no checkpoint in it")


def config_of(checkpoint: Path) -> Path:
    """The config of a checkpoint's run. Raises: ValueError if it is not beside it."""
    file = checkpoint.resolve().parents[1] / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{checkpoint}: there is no {file}: say which config with --config FILE")
    return file


def snapshot(model: AlexNet, optimizer: SGD2012) -> dict[str, dict]:
    """What the tower files of this rank hold, by their names: its towers as they are now, copied into the
    CPU's memory."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    contents = {}
    for index, tower in model.towers.items():
        own = list(tower.parameters())
        weights = {names[p]: _copy(p.detach()) for p in own}
        velocity = {names[p]: _copy(optimizer.state[p]["velocity"]) for p in own}
        contents[f"tower-{index}.pt"] = {"weights": weights, "velocity": velocity}
    if own[0].is_cuda:
        torch.cuda.synchronize()
    return contents


def _copy(tensor):
    """In pinned memory, if it comes from a GPU: ten times as fast, and all copies at once."""
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=True)


def serialised(content: dict) -> bytes:
    """A tower's file, of what `snapshot` gives."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_network(config: Config, checkpoint: Path | None) -> AlexNet:
    """All towers of a network, float32 on the CPU, with the weights of a checkpoint, or drawn without one.
    Raises: as `read_towers`."""
    model = AlexNet(config.model, config.train.seed, memory=config.memory)
    if checkpoint is not None:
        restore(read_towers(checkpoint, config.model, range(config.model.towers)), model)
    return model


@torch.no_grad()
def restore(towers: dict[str, dict], model: AlexNet, optimizer: SGD2012 | None = None) -> None:
    """Copy what `read_towers` gave into the model and, if there is one, its optimizer."""
    for name, parameter in model.named_parameters():
        parameter.copy_(towers["weights"][name])
        if optimizer is not None:
            optimizer.state[parameter]["velocity"].copy_(towers["velocity"][name])


def read_state(checkpoint: Path) -> dict:
    """What state.json says. Raises: Damaged if it was changed; ValueError if another version of the program
    wrote it."""
    try:
        state = files.read_sealed(checkpoint / "state.json")
    except ValueError as error:
        raise Damaged(str(error)) from None
    if state.get("format") != FORMAT:
        written = f"{checkpoint / 'state.json'}: is of format {state.get('format')}"
        raise ValueError(f"{written}, this program reads {FORMAT}: take the version that wrote it")
    return state


def compare_checksums(checkpoint: Path, state: Mapping, towers: Sequence[int]) -> None:
    """Of the files of some towers. Raises: Damaged."""
    for index in towers:
        name = f"tower-{index}.pt"
        try:
            files.compare_checksum(checkpoint / name, state["towers"][name])
        except (ValueError, LookupError, TypeError) as error:
            raise Damaged(str(error)) from None


def read_towers(checkpoint: Path, network: Network, towers: Sequence[int]) -> dict[str, dict]:
    """What `load_towers` gives, after a look at the checksums. Raises: ValueError if one was changed, too."""
    try:
        compare_checksums(checkpoint, read_state(checkpoint), towers)
    except Damaged as error:
        raise ValueError(f"{checkpoint}: unreadable checkpoint: {error}: name another") from None
    return load_towers(checkpoint, network, towers)


def load_towers(checkpoint: Path, network: Network, towers: Sequence[int]) -> dict[str, dict]:
    """The {"weights": ..., "velocity": ...} of some towers, on the CPU, by the model's names. Raises:
    ValueError if a file is unreadable or of another network."""
    both = {"weights": {}, "velocity": {}}
    for index in towers:
        file, expected = checkpoint / f"tower-{index}.pt", _shapes(network, index)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            for kind, tensors in both.items():
                found = content[kind]
                plain = all(t.layout is torch.strided and t.is_floating_point() for t in found.values())
                if not plain or {name: tuple(t.shape) for name, t in found.items()} != expected:
                    raise ValueError("it holds another network")
                tensors.update(found)
        except Exception as error:  # of any kind, if this program has not written it
            raise ValueError(f"{file}: unreadable checkpoint: {one_line(error)}") from None
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
