"""Checkpoints: a directory with one file per tower, so that any mode can resume from any other.

    checkpoints/step-00000093/
        tower-0.pt      {"weights": {name: tensor}, "velocity": {name: tensor}}
        tower-1.pt
        state.json      how far the run had come, its config, versions, checksums of the towers;
                        sealed (files.py)
    checkpoints/best    a link to the one with the smallest top-1 error

The union of the tower files is the network; nothing is sliced, gathered or renamed. The ranks of
replica 0 write their own towers; every rank reads those that it holds. No random state is kept:
what is drawn next depends on the seed and the step alone (seeds.py).

saver.py writes checkpoints, resume.py chooses one to go on from. Once there has been one, the run's
run.json says so.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet2gpu.config import schema
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
    """How far a run has come, beside the tensors.

    Attributes:
        step: steps done. The place in the epoch follows from it.
        recent: mean loss and error of each step since the last line of metrics.jsonl.
        evaluation: epoch and figures of the evaluation at this step, None if there was none yet.
        best: step and top-1 error of the best evaluation so far, if there was one.
    """

    step: int = schema.bounded(0, least=0)
    recent: tuple[tuple[float, float], ...] = ()
    evaluation: dict[str, int | float] | None = None
    best: dict[str, int | float] | None = None


def snapshot(model: AlexNet, optimizer: SGD2012) -> dict[str, bytes]:
    """The tower files of this rank, name -> content, as its towers are now."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    contents = {}
    for index, tower in model.towers.items():
        own = list(tower.parameters())
        buffer = io.BytesIO()
        torch.save(
            {
                "weights": {names[p]: p.detach().cpu() for p in own},
                "velocity": {names[p]: optimizer.state[p]["velocity"].cpu() for p in own},
            },
            buffer,
        )
        contents[f"tower-{index}.pt"] = buffer.getvalue()
    return contents


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of a run's directory, or of its `checkpoints`; one itself is that one.

    Raises: ValueError if there is none.
    """
    for within in (folder, folder / "checkpoints"):
        if (within / "state.json").is_file():
            return within
        found = sorted(within.glob("step-*/state.json"))
        if found:
            return found[-1].parent
    raise ValueError(f"{folder}: there is no checkpoint in it")


def config_of(checkpoint: Path) -> Path:
    """The config of a checkpoint's run. Raises: ValueError if it is not beside it."""
    file = checkpoint.resolve().parents[1] / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{checkpoint}: there is no {file}: say which config with --config FILE")
    return file


def read_state(checkpoint: Path) -> dict:
    """What state.json says.

    Raises: Damaged if it was changed; ValueError if another version of the program wrote it.
    """
    try:
        state = files.read_sealed(checkpoint / "state.json")
    except ValueError as error:
        raise Damaged(str(error)) from None
    if state.get("format") != FORMAT:
        raise ValueError(
            f"{checkpoint / 'state.json'}: is of format {state.get('format')}, this "
            f"program reads {FORMAT}: take the version that wrote it"
        )
    return state


def compare_checksums(checkpoint: Path, state: Mapping, towers: Iterable[int]) -> None:
    """Of the files of some towers. Raises: Damaged."""
    for index in towers:
        try:
            files.compare_checksum(checkpoint / f"tower-{index}.pt", state["towers"][f"tower-{index}.pt"])
        except (ValueError, LookupError, TypeError) as error:
            raise Damaged(str(error)) from None


def read_towers(checkpoint: Path, network: Network, towers: Iterable[int]) -> dict[str, dict]:
    """What `load_towers` gives of some towers, after a look at their checksums.

    Raises: ValueError if a file is missing, was changed, or is of another network.
    """
    try:
        compare_checksums(checkpoint, read_state(checkpoint), towers)
    except Damaged as error:
        raise ValueError(f"{checkpoint}: unreadable checkpoint: {error}: name another") from None
    return load_towers(checkpoint, network, towers)


def load_towers(checkpoint: Path, network: Network, towers: Iterable[int]) -> dict[str, dict]:
    """The {"weights": ..., "velocity": ...} of some towers, on the CPU, by the model's names.

    Raises: ValueError if a file is unreadable or of another network.
    """
    both = {"weights": {}, "velocity": {}}
    for index in towers:
        file, expected = checkpoint / f"tower-{index}.pt", _shapes(network, index)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            for kind, tensors in both.items():
                plain = all(
                    t.layout is torch.strided and t.is_floating_point() for t in content[kind].values()
                )
                shapes = {name: tuple(tensor.shape) for name, tensor in content[kind].items()}
                if not plain or shapes != expected:
                    raise ValueError("it holds another network")
                tensors.update(content[kind])
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


@torch.no_grad()
def restore(content: dict[str, dict], model: AlexNet, optimizer: SGD2012 | None = None) -> None:
    """Copy what `load_towers` gave into the model and, if there is one, its optimizer."""
    for name, parameter in model.named_parameters():
        parameter.copy_(content["weights"][name])
        if optimizer is not None:
            optimizer.state[parameter]["velocity"].copy_(content["velocity"][name])


def note_saved(run: Path) -> None:
    """Note that a run has had a checkpoint. Raises: OSError."""
    if not has_saved(run):
        files.write_whole(run / "run.json", files.seal({"saved": True}))


def has_saved(run: Path) -> bool:
    """Whether a run must have had a checkpoint."""
    return (run / "run.json").exists()
