"""If these fail, a network on a GPU sees other images than on the CPU, or images take memory that they should
not have.

Without a GPU: the kernel runs in Triton's interpreter, and what a GPU would say of itself is made up.
"""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import train

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data import crops, on_gpu
from alexnet2gpu.data import prepare as prepare_module
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.pack import layout
from alexnet2gpu.data.prepare import Preparation
from bench.gpu import same_images

CPU = torch.device("cpu")
FLAT = same_images.FLAT
DEVICES = [CPU] + [torch.device("cuda", 0)] * torch.cuda.is_available()

# The interpreter rounds twice where a GPU rounds once; in float64, 8 bits times 24 bits are exact.
IN_TRITONS_INTERPRETER = """
import numpy as np, torch
from triton.runtime import interpreter
from alexnet2gpu.data import prepare_kernel
from alexnet2gpu.data.prepare import Preparation
from bench.gpu.same_images import differences
torch.cuda.mem_get_info = lambda device: (2**20, 2**20)

def fma(self, x, y, z):
    exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
    return interpreter.TensorHandle(exact.astype(np.float32), x.dtype.scalar)

interpreter.InterpreterBuilder.create_fma = fma

class AsOnAGPU(Preparation):
    def __init__(self, *args):
        super().__init__(*args)
        self.kernel = prepare_kernel if self.dtype == torch.float32 else None

found = differences(torch.device("cpu"), AsOnAGPU)
assert sum("kept" in case for case in found) == 7 and len(found) == 15, found
assert all(difference == 0 for difference, _ in found.values()), found
"""


def test_the_kernel_gives_what_the_cpu_does_to_the_bit():
    """Cut by threads and by the kernel, in training and all ten views of test images; more elements than
    one block has, and a rest."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", IN_TRITONS_INTERPRETER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_device_prepares_the_images_that_the_cpu_does(device):
    found = same_images.differences(device)
    assert len(found) == (8 if device == CPU else 15)
    assert all(difference <= allowed for difference, allowed in found.values()), found


def test_another_device_would_be_seen():
    """By the comparison that the two tests above rely on."""

    class Other(Preparation):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs) * (1 + 2**-16)

    found = same_images.differences(CPU, Other)
    assert all(difference > allowed for difference, allowed in found.values()), found


def grey(count, order="C"):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 7, 5, 1), dtype=np.uint8)
    return Images(np.asarray(pixels, order=order), np.zeros(count, int), classes=10)


@pytest.mark.parametrize(
    "free, ranks, kept",
    [
        (4 * 35 * 30, 1, [10, 20]),  # to the byte
        (4 * 35 * 30 - 1, 1, [10]),
        (4 * 35 * 20 - 1, 1, [10]),
        (4 * 35 * 10 - 1, 1, []),
        (4 * 35 * 30, 3, [10]),
        (4 * 35 * 30 - 1, 3, []),
    ],
)
def test_images_are_kept_where_together_they_take_a_quarter(free, ranks, kept, monkeypatch):
    """Of the memory that is free, and of a rank's part of it."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    found = on_gpu.keep_those_that_fit([grey(10), grey(20)], CPU, ranks)
    assert [len(pixels) for _, pixels in found] == kept


def test_what_is_kept_are_the_pixels(packs, monkeypatch):
    """Of arrays and raw packs, piece by piece and the rest; JPEG packs are not, nor arrays that lie
    otherwise."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    raw, jpeg = (layout.read_pack(packs[store])[0] for store in ("raw", "jpeg"))
    sets = [grey(10), grey(10, order="F"), raw, jpeg]
    for piece in (1, 4 * raw.pixels[0, :].size, 2**26):
        monkeypatch.setattr(on_gpu, "PIECE", piece)
        found = on_gpu.keep_those_that_fit(sets, CPU, 1)
        assert [images for images, _ in found] == [sets[0], raw]
        for images, pixels in found:
            assert np.array_equal(pixels, [images.pixels[i, :] for i in range(len(images))])


def test_images_that_come_too_slowly_stay(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    monkeypatch.setattr(on_gpu, "PATIENCE", -1)
    assert on_gpu.keep_those_that_fit([grey(10)], CPU, 1) == []


@pytest.mark.parametrize(
    "ranks, gpus, override, sharing",
    [
        (1, 1, "data.on_gpu=true", 1),
        (4, 4, "data.on_gpu=true", 1),
        (4, 2, "data.on_gpu=true", 2),
        (3, 2, "data.on_gpu=true", 2),
        (1, 1, "data.on_gpu=false", None),
        (1, 1, "train.precision=float64", None),
    ],
)
def test_ranks_share_a_gpu(ranks, gpus, override, sharing, monkeypatch):
    """Nothing is kept if the config says so, or if there is no kernel."""
    asked = []
    monkeypatch.setattr(prepare_module, "gpus", lambda: gpus)
    monkeypatch.setattr(prepare_module, "keep_those_that_fit", lambda *args: asked.append(args) or [])
    images = grey(10)
    prepare = Preparation(images, load_config("configs/quick.yaml", [override]), CPU, ranks)
    prepare.kernel = None if "float64" in override else prepare_module
    prepare.keep(images)
    assert asked == ([((images,), CPU, sharing)] if sharing else [])


def test_a_run_keeps_its_training_and_its_test_images(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(
        Preparation, "keep", lambda self, *sets: kept.append([len(images) for images in sets])
    )
    small = ["data.name=synthetic", FLAT, "train.max_steps=1", "train.batch=8"]
    train("--out", tmp_path / "run", *(part for key in small for part in ("--set", key)))
    assert kept == [[512, 64]]


@pytest.mark.parametrize(
    "device, ranks, threads",
    [("cuda", 1, 16), ("cuda", 4, 10), ("cuda", 99, 1), ("cpu", 1, 2), ("cpu", 8, 2)],
)
def test_how_many_threads_cut_crops(device, ranks, threads, monkeypatch):
    """By default, of 40 cores; as many as the config says, if it does."""
    monkeypatch.setattr(crops, "cores", lambda: 40)
    assert crops.threads_for(torch.device(device), ranks) == threads
    asked, images = [], grey(10)
    monkeypatch.setattr(prepare_module, "cut_ahead", lambda *args: asked.append(args[3]))
    for own in ("null", "7"):
        prepare = Preparation(images, load_config("configs/quick.yaml", [f"data.threads={own}"]), CPU, ranks)
        prepare.device = torch.device(device)
        prepare.cut(images, [])
    assert asked == [threads, 7]


def test_threads_that_cut_crops_are_of_the_gpu_of_their_rank(monkeypatch):
    """Else each of them opens a context on GPU 0."""

    class Buffer:
        def __init__(self, *args):
            pass

        def start(self, corners, pool, threads):
            pool.submit(int).result()

        def finish(self):
            return seen

    seen, gpu = [], torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append((threading.get_ident(), device)))
    monkeypatch.setattr(crops, "_Buffer", Buffer)
    corners = crops.Corners(*np.zeros((3, 1), int))
    assert list(crops.cut_ahead(grey(1), [corners], 5, 1, None)) == [[]]
    list(crops.cut_ahead(grey(1), [corners], 5, 1, SimpleNamespace(device=gpu)))
    [(thread, device)] = seen
    assert device == gpu and thread != threading.get_ident()


class OnAGPU(Preparation):
    """Whose batches say that they are there."""

    def __call__(self, *args, **kwargs):
        x = super().__call__(*args, **kwargs)
        return x if kwargs["out"] is not None else x.as_subclass(SaysThatItIsThere)


class SaysThatItIsThere(torch.Tensor):
    is_cuda = True


@pytest.mark.parametrize("resize", [None, 16])
def test_on_a_gpu_all_batches_are_the_same_two_tensors(resize):
    """So that a CUDA graph finds them; on the CPU they are new ones."""
    images, side = same_images.noise(20, 9, 3), resize or 8
    overrides = [FLAT, f"model.input=[3, {side}, {side}]", "data.crop=8", "train.batch=6"]
    config = load_config("configs/quick.yaml", [*overrides, f"data.resize={resize or 'null'}"])
    batches = [TrainBatches(images, config, kind(images, config, CPU)) for kind in (Preparation, OnAGPU)]
    for epoch in (1, 2):
        expected, seen = list(batches[0].epoch(epoch)), []
        assert len({id(tensor) for batch in expected for tensor in batch}) == 6
        for batch in batches[1].epoch(epoch):
            there = batches[1].buffers
            assert all(one is other for one, other in zip(batch, there, strict=True))
            seen.append((batch, [tensor.clone() for tensor in batch]))
        assert len({id(tensor) for batch, _ in seen for tensor in batch}) == 2
        for (_, batch), wanted in zip(seen, expected, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(batch, wanted))
