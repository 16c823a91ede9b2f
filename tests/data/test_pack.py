"""If these fail, a pack holds other pixels or means than its folder, or does not fit in memory.

What is expected comes from plain loops over the files: Pillow opens and scales one photograph,
numpy averages.
"""

import io
import json
import os
import shutil
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import metrics, train
from PIL import Image
from scenes import LABELS, squares

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.pack import layout
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.faults import files


def test_a_raw_pack_is_what_a_plain_loop_makes_of_the_folder(photographs_folder, packs):
    images = dict(zip(layout.PARTS, layout.read_pack(packs["raw"])))
    for part, labels in {"train": LABELS, "val": {"cat": 1, "emu": 2}}.items():
        pixels, numbers = squares(photographs_folder, part, labels)
        assert images[part].pixels.shape == pixels.shape
        for i, square in enumerate(pixels):
            assert np.array_equal(images[part].pixels[i, :, :], square), f"{part}, photograph {i}"
        assert images[part].labels.tolist() == numbers
        assert images[part].names == ("Dog", "cat", "emu") and images[part].classes == 3
        assert (packs["raw"] / f"{part}.u8").read_bytes() == pixels.tobytes()
        stored = np.fromfile(packs["raw"] / f"{part}.labels.i64", "<i8")
        assert stored.tolist() == numbers
        assert layout.Part(packs["raw"], part).read_sidecar().skipped == ()


def test_mean_and_covariance_are_of_the_training_pixels_in_plain_numpy(photographs_folder, packs):
    pixels = squares(photographs_folder, "train", LABELS)[0].astype(np.float64)
    images, test_images = layout.read_pack(packs["raw"])
    np.testing.assert_allclose(images.mean_image(), pixels.mean(0), rtol=1e-6)
    colours = pixels.reshape(-1, 3)
    expected = (colours - colours.mean(0)).T @ (colours - colours.mean(0)) / len(colours)
    np.testing.assert_allclose(images.colour_covariance(), expected, rtol=1e-6)
    assert images.mean.dtype == np.float32 and test_images.mean is None


def test_the_jpeg_store_is_read_as_pillow_decodes_it(photographs_folder, packs):
    squares_of = squares(photographs_folder, "train", LABELS)[0]
    images, _ = layout.read_pack(packs["jpeg"])
    offsets = np.fromfile(packs["jpeg"] / "train.offsets.i64", "<i8")
    strings = (packs["jpeg"] / "train.jpegs").read_bytes()
    assert offsets[0] == 0 and offsets[-1] == len(strings) and len(offsets) == len(images) + 1
    decoded = []
    for i, square in enumerate(squares_of):
        string = strings[offsets[i] : offsets[i + 1]]
        expected = io.BytesIO()
        Image.fromarray(square).save(expected, "JPEG", quality=80)
        assert string == expected.getvalue()
        decoded.append(np.asarray(Image.open(io.BytesIO(string))))
        assert np.array_equal(images.pixels[i, :, :], decoded[i])
        assert np.array_equal(images.pixels[i, 3:14, 5:9], decoded[i][3:14, 5:9])
    np.testing.assert_allclose(images.mean_image(), np.mean(decoded, 0), rtol=1e-6)
    assert np.abs(images.mean_image() - squares_of.mean(0)).max() > 0.1  # so it is not of those


TINY = [
    "data.name=folder",
    "data.size=32",
    "data.crop=28",
    "model.input=[3,28,28]",
    "train.batch=6",
    "train.max_steps=2",
]


def test_training_makes_the_pack_once(photographs_folder, tmp_path):
    source = shutil.copytree(photographs_folder, tmp_path / "photographs")
    overrides = [part for override in TINY for part in ("--set", override)]
    seen = []
    for run in ("first", "second"):
        train("--data", source, *overrides, "--out", tmp_path / run)
        assert metrics(tmp_path / run, "top1_error").keys() == {2}
        files = sorted((source / "pack-raw-32").iterdir())
        seen.append([(file.name, file.stat().st_mtime_ns, file.stat().st_ino) for file in files])
    assert seen[0] == seen[1] and len(seen[0]) == 9
    expected, _ = squares(source, "train", LABELS, 32)
    assert (source / "pack-raw-32" / "train.u8").read_bytes() == expected.tobytes()
    first, second = (metrics(tmp_path / run, "loss") for run in ("first", "second"))
    assert first == second
    train("--data", source / "pack-raw-32", *overrides, "--out", tmp_path / "from the pack")
    assert metrics(tmp_path / "from the pack", "loss") == first
    train("--data", source, *overrides, "--set", "data.store=jpeg", "--out", tmp_path / "jpeg")
    jpeg = metrics(tmp_path / "jpeg", "loss")
    assert (source / "pack-jpeg-32").is_dir() and not (source / "pack-raw-32.partial").exists()
    assert jpeg != first and jpeg == pytest.approx(first, rel=0.05)


MISFITS = {
    "channels": ([*TINY, "model.input=[2,28,28]"], "have 3 channels, but model.input says 2"),
    "classes": ([*TINY, "model.stages.4.fc8.out=2"], "are of 3 classes, but the network has 2"),
    "size": ([*TINY, "data.size=24"], "of 24x24 pixels do not give the 28x28 of model.input"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_suit_the_network_is_not_packed_first(misfit, photographs_folder):
    overrides, complaint = MISFITS[misfit]
    overrides = [*overrides, f"data.dir={json.dumps(str(photographs_folder))}"]
    config = load_config("configs/quick.yaml", overrides)
    before = set(photographs_folder.iterdir())
    with pytest.raises(ValueError, match=complaint):
        load_images(config.data, config.model)
    assert set(photographs_folder.iterdir()) == before


def resident():
    """Memory of this process in MB, the pages of mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_while_a_pack_larger_than_memory_is_read(packs, tmp_path):
    """100 GB of zeros that take no room on the disk. From batch 40 to batch 140, 629 MB are read
    that were not there before."""
    folder, count = shutil.copytree(packs["raw"], tmp_path / "pack"), 508_000
    try:
        os.truncate(folder / "train.u8", count * 256 * 256 * 3)
    except OSError:
        pytest.skip("no file of 100 GB here")
    sum_of_one = zlib.crc32(bytes(256 * 256 * 3))
    (folder / "train.sums.u32").write_bytes(np.full(count, sum_of_one, np.uint32).tobytes())
    (folder / "train.labels.i64").write_bytes(bytes(8 * count))
    sidecar = asdict(layout.Part(folder, "train").read_sidecar())
    sidecar |= {"shape": [count, 256, 256, 3], "mean": None, "covariance": None}
    for name in ("train.sums.u32", "train.labels.i64"):
        sidecar["checksums"][name] = files.checksum_of(folder / name)
    (folder / "train.json").write_bytes(files.seal(sidecar))
    if (folder / "train.u8").stat().st_blocks * 512 > 2**20:
        pytest.skip("this file system has no sparse files")
    crop = ["data.crop=128", "data.mean=none", "model.input=[3,128,128]", "train.batch=32"]
    config = load_config("configs/quick.yaml", crop)
    images, _ = layout.read_pack(folder)
    batches = TrainBatches(images, config, Preparation(images, config, torch.device("cpu")))
    held = []
    for _, number in zip(batches.epoch(1), range(140)):
        if number in (39, 139):
            held.append(resident())
    assert 100 * 32 * 256 * 256 * 3 > 600e6
    assert held[1] - held[0] < 100, f"{held[0]:.0f} MB became {held[1]:.0f} MB"
