"""A trained network, all its towers, as one file for others to read. Its ending says which:

    .pt            a plain state dict, {name: tensor}: torch.load, and load_state_dict of what
                   alexnet2gpu.load gives
    .safetensors   the same
    .onnx          the network itself: images (B, C, H, W) float32, raw pixels less the mean image -> logits
                   (B, classes), B free; without dropout, as in testing

With each goes what else is needed to use it, as text: `config`, `classes` (JSON, in the order of the
outputs), `preparation` (in words), `mean` (base64 of a .npy file, (H, W, C) float32: what is subtracted),
`listing` (a checksum of the training photographs' names). It is the metadata of .safetensors and .onnx; of
.pt the entry "" of the state dict's `_metadata`, which `load_state_dict` leaves alone.

The last two need the packages of the extra `export`.
"""

import base64
import io
import json
import warnings
from collections import OrderedDict
from pathlib import Path

import torch

from alexnet2gpu.config.load import config_text
from alexnet2gpu.data.images import array_file, middle
from alexnet2gpu.faults import files
from alexnet2gpu.runs.checkpoints.towers import load_network
from alexnet2gpu.runs.evaluate import Saved

ENDINGS = ".pt", ".safetensors", ".onnx"


def export(saved: Saved, file: Path) -> None:
    """Write `file`.
    Raises: ValueError if the ending is unknown, the file is there already, a package is missing, or the
        checkpoint cannot be read; OSError if it cannot be written.
    """
    if file.suffix not in ENDINGS:
        raise ValueError(f"--out {file}: should end in {', '.join(ENDINGS)}")
    if file.exists():
        raise ValueError(f"--out {file}: is there already: give another")
    network, about = load_network(saved.config, saved.checkpoint).eval(), describe(saved)
    try:
        if file.suffix == ".onnx":
            content = _onnx(network, saved.config.model.input, about)
        else:
            content = _state_dict(network, about, file.suffix)
    except ImportError as error:
        raise ValueError(f"--out {file}: {error}: pip install 'alexnet2gpu[export]'") from None
    files.write_whole(file, content)


def describe(saved: Saved) -> dict[str, str]:
    """See above."""
    data, learned, crop = saved.config.data, saved.learned, saved.config.data.crop
    height, width, channels = learned.task.shape
    steps = [f"{'RGB' if channels == 3 else f'{channels} channel(s)'}, 0 to 255, {height}x{width} pixels"]
    about = {"config": config_text(saved.config), "classes": json.dumps(learned.task.names)}
    if learned.task.listing:
        about["listing"] = learned.task.listing
        steps[0] += ": the shorter side scaled to it (Lanczos), the longer one cropped"
    if crop:
        steps.append(f"the {crop}x{crop} pixels in the middle")
    if learned.mean is not None:
        about["mean"] = base64.b64encode(array_file(middle(learned.mean, crop))).decode()
        steps.append("less `mean`")
    steps += [f"divided by {data.divide:g}"] * (data.divide != 1)
    steps += [f"enlarged to {data.resize}x{data.resize}, bilinearly"] * bool(data.resize)
    return {**about, "preparation": "; ".join(steps)}


def _state_dict(network, about, ending):
    # Without the layout of channels, which other readers need not know.
    state = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    if ending == ".safetensors":
        from safetensors.torch import save

        return save(state, metadata=about)
    state, buffer = OrderedDict(state), io.BytesIO()
    state._metadata = {"": {"version": 1, **about}}
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
