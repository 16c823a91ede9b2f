"""Whether a device prepares the images that the CPU does.

All batches of an epoch, and all ten views of test images, case by case: with mean, mirror and colour or
without, one channel or three, enlarged, in float32 and float64; on a GPU cut there and by threads, while it
has other work to do, so that what does not wait for a copy, or is overwritten too early, is seen. The kernel
(data/prepare_kernel.py) rounds where the CPU does: there is no difference. Where torch's operations compute,
in float64 and in enlarging, or without Triton, there may be a rounding error.
"""

import numpy as np
import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import EvaluationBatches, TrainBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from bench.gpu.cases import CPU, DEVICE, DRY
from bench.gpu.items import holds

CASES = (  # channels, overrides
    (3, ("data.flip=true", "data.colour=0.1")),  # as alexnet.yaml
    (3, ("data.flip=true", "data.colour=0.3", "data.colour_law=text", "data.divide=58")),
    (3, ("data.flip=true", "data.colour=0.1", "data.mean=none")),
    (3, ("data.mean=none", "data.divide=255")),
    (1, ("data.flip=true", "data.divide=1.1")),
    (1, ("data.mean=none",)),
    (3, ("data.flip=true", "data.resize={larger}")),
    (3, ("data.flip=true", "data.colour=0.1", "train.precision=float64")),
)
FLAT = "model.stages=[{flatten: flatten, fc: {type: linear, out: 10, init: 1}}]"
BATCH = 3
ROUNDED = {"float32": 1e-3, "float64": 1e-11}  # of values up to 255


def noise(count, side, channels):
    """Images that are higher than wide."""
    draw = np.random.default_rng((channels, count))
    pixels = draw.integers(0, 256, (count, side + 2, side, channels), dtype=np.uint8)
    return Images(pixels, draw.integers(0, 10, count), classes=10)


def batches_of(prepare, train, test, config):
    """All batches of both kinds, as they are when they come: copies, since those of a GPU are filled anew."""
    busy = torch.ones(4096, 4096, device=prepare.device) if prepare.device.type == "cuda" else None
    for batches in (TrainBatches(train, config, prepare).epoch(1), _views(test, prepare)):
        for x, labels in batches:
            yield x.clone(), labels.clone()
            if busy is not None:
                _ = [busy @ busy for _ in range(8)]  # the CPU goes ahead


def _views(test, prepare):
    return EvaluationBatches(test, prepare, 20, views=10)


def differences(device, make=Preparation, side=22, count=7):
    """Case -> (the largest difference from the CPU, what is allowed); `count` images of about
    `side` pixels. On a GPU each case is also one whose images are kept there, if `make` gives it a kernel."""
    found = {}
    for channels, overrides in CASES:
        crop = side * 7 // 8
        own = [text.format(larger=crop + 9) for text in overrides]
        shape = [channels] + [crop + 9 if "resize" in str(own) else crop] * 2
        settings = [FLAT, f"model.input={shape}", f"data.crop={crop}", f"train.batch={BATCH}", *own]
        config = load_config("configs/quick.yaml", settings)
        train, test = noise(count, side, channels), noise(-(-count // 20), side, channels)
        expected = list(batches_of(Preparation(train, config, CPU), train, test, config))
        for kept in (False, True):
            prepare = make(train, config, device)
            if kept:
                prepare.keep(train, test)
            if kept and not prepare.kept:
                continue
            seen = list(batches_of(prepare, train, test, config))
            exact = (prepare.kernel or device == CPU) and not config.data.resize
            case = f"{channels} channels, {', '.join(own)}{', kept' * kept}"
            found[case] = _largest(seen, expected), 0.0 if exact else ROUNDED[config.train.precision]
    return found


def _largest(seen, expected):
    assert len(seen) == len(expected)
    largest = 0.0
    for (x, labels), (wanted, numbers) in zip(seen, expected):
        assert x.dtype == wanted.dtype and labels.tolist() == numbers.tolist()
        assert x.is_contiguous(memory_format=torch.channels_last)
        largest = max(largest, (x.cpu() - wanted).abs().max().item())
    return largest


def same():
    """Of as large images as alexnet.yaml has, on this machine's device."""
    found = differences(DEVICE, side=22 if DRY else 256, count=7 if DRY else 200)
    statements = {f"{case}: at most {allowed:g}": off <= allowed for case, (off, allowed) in found.items()}
    statements["some were kept on the GPU"] = DRY or any("kept" in case for case in found)
    return holds(statements, {case: off for case, (off, _) in found.items()})
