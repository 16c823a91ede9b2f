"""A trained network, all its towers, as one file for others to read.

    .pt            a plain state dict, {name: tensor}: torch.load, and load_state_dict of what
                   alexnet2gpu.load gives
    .safetensors   the same, with the config in its metadata
    .onnx          the network itself: images (B, C, H, W) float32, raw pixels less the mean image
                   -> logits (B, classes), B free; without dropout, as in testing

The ending of the file says which. The last two need the packages of the extra `export`.
"""

import io
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml

from alexnet2gpu.config import schema
from alexnet2gpu.config.load import load_config
from alexnet2gpu.faults import files
from alexnet2gpu.runs.checkpoints.load import load

# Every layer as torch's own operations, which exporters know.
PLAIN = [
    f"memory.{lever}=false"
    for lever in ("norm_input_only", "pool_places_only", "image_unpadded", "relu_in_place")
]


def export(config: Path, checkpoint: Path, file: Path, overrides: Sequence[str] = ()) -> None:
    """Write `file`.

    Args:
        config, checkpoint, overrides: as `alexnet2gpu.load` takes them.

    Raises: ValueError if the ending is unknown, the file is there already, a package is missing,
        or the checkpoint cannot be read; OSError if it cannot be written.
    """
    if file.suffix not in WRITERS:
        raise ValueError(f"--out {file}: should end in {', '.join(WRITERS)}")
    if file.exists():
        raise ValueError(f"--out {file}: is there already: give another")
    changes = [*overrides, *PLAIN]
    network = load(config, checkpoint, changes).eval()
    settings = load_config(config, overrides)
    about = {"config": yaml.safe_dump(schema.plain(settings))}
    try:
        content = WRITERS[file.suffix](network, settings.model.input, about)
    except ImportError as error:
        raise ValueError(f"--out {file}: {error}: pip install 'alexnet2gpu[export]'") from None
    files.write_whole(file, content)


def _state_dict(network):
    """Without the layout of channels, which other readers need not know."""
    return {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}


def _pt(network: torch.nn.Module, shape: Sequence[int], about: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    torch.save(_state_dict(network), buffer)
    return buffer.getvalue()


def _safetensors(network: torch.nn.Module, shape: Sequence[int], about: Mapping[str, str]) -> bytes:
    from safetensors.torch import save

    return save(_state_dict(network), metadata=dict(about))


def _onnx(network: torch.nn.Module, shape: Sequence[int], about: Mapping[str, str]) -> bytes:
    import onnx  # noqa: F401  both are wanted by torch.onnx, which says so at length
    import onnxscript  # noqa: F401

    images = torch.zeros(2, *shape)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        program.model.metadata_props.update(about)
        program.save(Path(folder, "network.onnx"), external_data=False)
        return Path(folder, "network.onnx").read_bytes()


WRITERS = {".pt": _pt, ".safetensors": _safetensors, ".onnx": _onnx}
