"""Ranks agree on what they do, before the first step: told different things, they would train nonsense.

Each rank tells the others its config, where it starts, what its images and its programs are, by keys; what
differs is named, with the machines. A machine may have its images elsewhere, and its own number of threads.
"""

import platform
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alexnet2gpu
from alexnet2gpu.config import layers as kinds
from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import trace
from alexnet2gpu.config.schema import flat, plain_tree
from alexnet2gpu.data.epoch import draw_epoch
from alexnet2gpu.data.images import Images
from alexnet2gpu.faults import files
from alexnet2gpu.model.norm.layer import has_kernels
from alexnet2gpu.model.precision import activation_dtype
from alexnet2gpu.ranks.groups import Ranks

OF_A_MACHINE = ("data.dir", "data.threads", "data.on_gpu", "train.weights_from", "train.threads")
OF_A_MACHINE += ("train.keep_memory",)
SHOWN = 5  # differences, of however many
SAMPLE = 64  # images of a set that has no checksums


def versions() -> dict[str, str]:
    """Of what has a part in the numbers; `code` is a checksum of the package's own."""
    package = Path(alexnet2gpu.__file__).parent
    found = [file for ending in ("py", "c") for file in package.rglob(f"[!.]*.{ending}")]
    sources = sorted(filter(Path.is_file, found))  # an editor may have its marks there
    return {
        "alexnet2gpu": alexnet2gpu.__version__,
        "code": files.checksum(b"".join(file.read_bytes() for file in sources)),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def kernels(config: Config, device: torch.device) -> str:
    """What computes the normalisations: where it is something else, bits are others."""
    norms = any(isinstance(row.layer, kinds.ResponseNorm) for row in trace(config.model))
    own = norms and has_kernels(device.type, activation_dtype(config.train.precision))
    return f"{device.type}, {'own kernels' if own else 'operations of torch'}"


def content_of(images: Images) -> dict[str, Any]:
    """Checksums: of labels and pixels, a pack's as they were written, of other images those of a sample."""
    sums = getattr(images.pixels, "sums", None)
    if sums is None:
        chosen = np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int)
        sums = np.stack([images.pixels[i] for i in chosen])
    return {
        "number": len(images),
        "labels": files.checksum(np.ascontiguousarray(images.labels, np.int64)),
        "classes": files.checksum("\n".join(images.names).encode()),
        "pixels": files.checksum(np.ascontiguousarray(sums)),
    }


def told(configs: Sequence[Config], sets: Mapping[str, Images]) -> dict[str, Any]:
    """What a rank was told, and has found, by keys; of several networks with their numbers. `sets` of images
    by what they are for."""
    keys = {}
    for number, config in enumerate(configs, 1):
        whose = f"network {number}: " if len(configs) > 1 else ""
        tree = flat(plain_tree(config))
        keys |= {whose + key: value for key, value in tree.items() if key not in OF_A_MACHINE}
    data = {name: content_of(images) for name, images in sets.items()}
    order = draw_epoch(0, 1, (1000, 9, 8, 3), 1, True)  # as numpy draws it
    data["random order"] = files.checksum(b"".join(drawn.tobytes() for drawn in order))
    made = versions()
    return {**keys, **flat(data), "version.code": made["code"], "version.torch": made["torch"]}


def check_agreement(told: Mapping[str, Any], ranks: Ranks) -> None:
    """Raises: ValueError, on every rank, if one was told something else than rank 0."""
    (host, first), *others = ranks.gather((socket.gethostname(), dict(told)))
    for rank, (other, theirs) in enumerate(others, 1):
        said = [
            f"{key} is {first.get(key)} on {host} (rank 0), {theirs.get(key)} on {other} (rank {rank})"
            for key in first | theirs
            if first.get(key) != theirs.get(key)
        ]
        if said:
            more = [f"and {len(said) - SHOWN} more"] * (len(said) > SHOWN)
            said = "; ".join(said[:SHOWN] + more)
            way_out = "start all with the same command, code and images"
            raise ValueError(f"ranks were told different things: {said}: {way_out}")
