"""The files of towers in a checkpoint (format.py), written and read.

What is read is checked: somebody who can write into a run's directory can make its checksums right, too.
"""

import io
import os
import pickletools
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import Network, trace
from alexnet2gpu.faults import files
from alexnet2gpu.faults.mistakes import one_line
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012
from alexnet2gpu.runs.checkpoints.format import Damaged, compare_checksums, read_state

LARGEST_PICKLE = 2**20  # bytes, of what a tower file says of its tensors: some 150 of each
# What it may name: tensors of float32 and float64, and dicts of them.
TENSORS = {
    *("torch._utils _rebuild_tensor_v2", "torch FloatStorage", "torch DoubleStorage"),
    "collections OrderedDict",
}


def snapshot(model: AlexNet, optimizer: SGD2012, towers: Sequence[int]) -> dict[str, dict]:
    """What the files of some towers hold, by their names: these as they are now, copied into the CPU's
    memory. All of each has to be here."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    contents = {}
    for index in towers:
        own = list(model.towers[str(index)].parameters())
        weights = {names[p]: _copy(p.detach()) for p in own}
        velocity = {names[p]: _copy(optimizer.velocity_of(p)) for p in own}
        contents[f"tower-{index}.pt"] = {"weights": weights, "velocity": velocity}
    if own[0].is_cuda:
        torch.cuda.synchronize()
    return contents


def take_part(model: AlexNet, optimizer: SGD2012, towers: Sequence[int]) -> None:
    """What the other replicas do while one takes a `snapshot`, where each has a part of the velocities."""
    for index in towers:
        for parameter in model.towers[str(index)].parameters():
            optimizer.velocity_of(parameter)


def _copy(tensor):
    """In pinned memory, if it comes from a GPU: ten times as fast, and all copies at once."""
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=True)


def serialised(content: dict) -> bytes:
    """A tower's file, of what `snapshot` gives."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_network(config: Config, checkpoint: Path | None, kind: type[AlexNet] = AlexNet) -> AlexNet:
    """All towers of a network, float32 on the CPU, with the weights of a checkpoint, or drawn without one.
    Raises: as `read_towers`."""
    model = kind(config.model, config.train.seed, memory=config.memory)
    if checkpoint is not None:
        restore(read_towers(checkpoint, config.model, range(config.model.towers)), model)
    return model


@torch.no_grad()
def restore(towers: dict[str, dict], model: AlexNet, optimizer: SGD2012 | None = None) -> None:
    """Copy what `read_towers` gave, or a part of it, into the model and, if there is one, its optimizer."""
    weights, velocity = towers["weights"], towers["velocity"]
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])
        if name in velocity and optimizer is not None and parameter in optimizer.state:
            optimizer.state[parameter]["velocity"].copy_(velocity[name])


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
        file, expected = checkpoint / f"tower-{index}.pt", shapes_of(network, index)
        try:
            _check_archive(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
            for kind, tensors in both.items():
                found = content[kind]
                if {name: tuple(tensor.shape) for name, tensor in found.items()} != expected:
                    raise ValueError("it holds another network")
                if strange := [name for name, tensor in found.items() if not tensor.isfinite().all()]:
                    raise ValueError(f"the {kind} of {strange[0]} are not all finite")
                tensors.update(found)
        except Exception as error:  # of any kind, if this program has not written it
            raise ValueError(f"{file}: unreadable checkpoint: {one_line(error)}") from None
    return both


def _check_archive(file):
    """Raises: ValueError if a tower's file would unpack to more than it is, or holds more than tensors."""
    with open(file, "rb", opener=files.regular) as opened, zipfile.ZipFile(opened) as archive:
        records = archive.infolist()
        if sum(record.file_size for record in records) > os.fstat(opened.fileno()).st_size:
            raise ValueError("it would unpack to more than it is")
        (pickle,) = [record for record in records if record.filename.endswith("/data.pkl")]
        if pickle.file_size > LARGEST_PICKLE:
            raise ValueError("it says too much of its tensors")
        codes = pickletools.genops(archive.read(pickle))
        named = {argument for code, argument, _ in codes if code.name == "GLOBAL"}
        if not named <= TENSORS:
            raise ValueError(f"it names {min(named - TENSORS)}")


def shapes_of(network: Network, index: int) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape, for a tower."""
    shapes = {}
    for row in trace(network):
        if row.parameters:
            name = f"towers.{index}.{row.name}"
            shapes[f"{name}.weight"] = row.layer.weight_shape(row.reads, row.gives)
            shapes[f"{name}.bias"] = row.gives[:1]
    return shapes
