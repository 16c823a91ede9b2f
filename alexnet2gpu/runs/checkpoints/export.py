"""A trained network, all its towers, as one file for others to read. Its ending says which:

    .pt            a plain state dict, {name: tensor}: torch.load, and load_state_dict of what
                   alexnet2gpu.load gives
    .safetensors   the same, with the config in its metadata
    .onnx          the network itself: images (B, C, H, W) float32, raw pixels less the mean image -> logits
                   (B, classes), B free; without dropout, as in testing

The last two need the packages of the extra `export`.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from alexnet2gpu.config import schema
from alexnet2gpu.config.load import load_config
from alexnet2gpu.faults import files
from alexnet2gpu.runs.checkpoints.towers import load_network

ENDINGS = ".pt", ".safetensors", ".onnx"


def export(config: Path, checkpoint: Path | None, file: Path, overrides: Sequence[str] = ()) -> None:
    """Write `file`, of the directory of a checkpoint, or of weights as they are drawn if it is None; `config`
    and `overrides` are as `alexnet2gpu.load` takes them.
    Raises: ValueError if the ending is unknown, the file is there already, a package is missing, or the
        checkpoint cannot be read; OSError if it cannot be written.
    """
    if file.suffix not in ENDINGS:
        raise ValueError(f"--out {file}: should end in {', '.join(ENDINGS)}")
    if file.exists():
        raise ValueError(f"--out {file}: is there already: give another")
    settings = load_config(config, overrides)
    network = load_network(settings, checkpoint).eval()
    about = {"config": yaml.safe_dump(schema.plain_tree(settings))}
    try:
        if file.suffix == ".onnx":
            content = _onnx(network, settings.model.input, about)
        else:
            content = _state_dict(network, about, file.suffix)
    except ImportError as error:
        raise ValueError(f"--out {file}: {error}: pip install 'alexnet2gpu[export]'") from None
    files.write_whole(file, content)


def _state_dict(network, about, ending):
    # Without the layout of channels, which other readers need not know.
    state = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    if ending == ".safetensors":
        from safetensors.torch import save

        return save(state, metadata=about)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _onnx(network, shape, about):
    import onnx  # noqa: F401  both are wanted by torch.onnx, which says so at length
    import onnxscript  # noqa: F401

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        program.model.metadata_props.update(about)
        return program.model_proto.SerializeToString()
