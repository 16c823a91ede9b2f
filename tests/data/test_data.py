"""If these fail, the network sees other pixels than intended."""

import gzip
import resource

import numpy as np
import pytest
import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.batches import EvaluationBatches, TrainBatches
from alexnet2gpu.data.epoch import draw_epoch
from alexnet2gpu.data.idx import IDX_FILES, read_idx
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation
from alexnet2gpu.data.sources import SAMPLE, load_images
from alexnet2gpu.ranks.modes import Grid

CPU = torch.device("cpu")


def small(count=20, side=12, channels=3):
    draw = np.random.default_rng(0)
    return Images(
        draw.integers(0, 256, (count, side, side, channels), dtype=np.uint8),
        draw.integers(0, 10, count),
        classes=10,
    )


FLAT = "{flatten: flatten, fc: {type: linear, out: 10, init: 1}}"


def config(*overrides):
    """Crops of 8, batches of 6."""
    eight = ["data.crop=8", "model.input=[3, 8, 8]", f"model.stages=[{FLAT}]", "train.batch=6"]
    return load_config("configs/quick.yaml", [*eight, *overrides])


def prepared(images, settings):
    """As launch/train.py makes it."""
    return Preparation(images, settings, CPU)


def one_by_one(images, settings, epoch):
    """The epoch's batches made image by image in numpy: crop, mirror, subtract, divide."""
    table = draw_epoch(settings.train.seed, epoch, images.pixels.shape, 8, settings.data.flip)
    mean = images.pixels.astype(np.float64).mean(0).astype(np.float32)[2:10, 2:10]
    for start in range(0, len(images) - 5, 6):
        pictures = []
        for i in table.order[start : start + 6]:
            crop = images.pixels[i][
                table.top[i] : table.top[i] + 8, table.left[i] : table.left[i] + 8
            ].astype(np.float32)
            crop = crop[:, ::-1] if table.flip[i] else crop
            pictures.append((crop - mean).transpose(2, 0, 1) / settings.data.divide)
        yield np.stack(pictures), images.labels[table.order[start : start + 6]]


@pytest.mark.parametrize("flip", ["true", "false"])
def test_batches_are_those_made_one_by_one(flip):
    images, settings = small(), config(f"data.flip={flip}", "data.divide=4")
    batches = list(TrainBatches(images, settings, prepared(images, settings)).epoch(3))
    expected = list(one_by_one(images, settings, 3))
    assert len(batches) == len(expected) == 3
    for (x, labels), (pictures, numbers) in zip(batches, expected):
        torch.testing.assert_close(x, torch.from_numpy(pictures), rtol=1e-6, atol=1e-5)
        assert labels.tolist() == numbers.tolist()


def test_pixels_are_exact_without_the_mean():
    images, settings = small(), config("data.mean=none", "data.flip=false")
    (x, _), *_ = TrainBatches(images, settings, prepared(images, settings)).epoch(1)
    table = draw_epoch(0, 1, images.pixels.shape, 8, False)
    i = table.order[0]
    crop = images.pixels[i, table.top[i] : table.top[i] + 8, table.left[i] : table.left[i] + 8]
    assert np.array_equal(x[0].numpy(), crop.transpose(2, 0, 1).astype(np.float32))


def test_the_table_covers_all_images_crops_and_flips():
    table = draw_epoch(0, 1, (20_000, 256, 256, 3), 224, True)
    assert np.array_equal(np.sort(table.order), np.arange(20_000))
    assert len(set(zip(table.top.tolist(), table.left.tolist()))) == 33 * 33
    assert table.flip.mean() == pytest.approx(0.5, abs=0.02)


def test_the_table_depends_on_seed_and_epoch_only():
    first = draw_epoch(0, 1, (50, 12, 12, 3), 8, True)
    assert all(np.array_equal(a, b) for a, b in zip(first, draw_epoch(0, 1, (50, 12, 12, 3), 8, True)))
    assert not np.array_equal(first.order, draw_epoch(0, 2, (50, 12, 12, 3), 8, True).order)
    assert not np.array_equal(first.order, draw_epoch(1, 1, (50, 12, 12, 3), 8, True).order)


def test_replicas_share_a_batch_out_and_a_resume_goes_on_in_it():
    images, settings = small(), config("data.flip=true")
    prepare = prepared(images, settings)
    whole = list(TrainBatches(images, settings, prepare).epoch(2))
    shares = [
        list(TrainBatches(images, settings, prepare, Grid(replica, 3)).epoch(2)) for replica in range(3)
    ]
    for step, (x, labels) in enumerate(whole):
        assert torch.equal(torch.cat([share[step][0] for share in shares]), x)
        assert torch.equal(torch.cat([share[step][1] for share in shares]), labels)
    resumed = list(TrainBatches(images, settings, prepare).epoch(2, first=2))
    assert len(resumed) == 1 and torch.equal(resumed[0][0], whole[2][0])


def test_test_images_are_shared_out_once_each_with_central_crops():
    images, settings = small(7), config("data.mean=none")
    prepare = prepared(images, settings)
    seen = [
        label
        for replica in range(2)
        for _, labels in EvaluationBatches(images, prepare, 3, Grid(replica, 2))
        for label in labels.tolist()
    ]
    assert sorted(seen) == sorted(images.labels.tolist())
    first = next(iter(EvaluationBatches(images, prepare, 3, Grid(1, 2))))[0][0]
    assert np.array_equal(first.numpy(), images.pixels[1, 2:10, 2:10].transpose(2, 0, 1).astype(np.float32))


def test_resize_enlarges_after_the_mean():
    settings = load_config("configs/textbook.yaml")
    train, _ = load_images(settings.data, settings.model)
    x = prepared(train, settings)(torch.from_numpy(train.pixels[:1].copy()))
    assert x.shape == (1, 1, 224, 224) and x.min() >= 0 and x.max() <= 1
    corner = train.pixels[0, :2, :2, 0] / np.float32(255)
    assert x[0, 0, 3, 3].item() == pytest.approx(corner[0, 0].item(), abs=1e-6)


def test_the_sample_is_balanced_and_has_its_licence():
    settings = load_config("configs/quick.yaml")
    train, test = load_images(settings.data, settings.model)
    assert train.pixels.shape == (6000, 28, 28, 1) and test.pixels.shape == (1000, 28, 28, 1)
    assert (
        np.bincount(train.labels).tolist() == [600] * 10 and np.bincount(test.labels).tolist() == [100] * 10
    )
    assert "Zalando SE" in (SAMPLE / "LICENSE").read_text()


def test_fashion_mnist_is_read_from_files_compressed_or_not(tmp_path):
    """A folder as Debian's package unpacks it, or torchvision; here the bundled files stand for
    the large ones."""
    raw = tmp_path / "b" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX_FILES:
        (raw / name).write_bytes(gzip.decompress((SAMPLE / f"{name}.gz").read_bytes()))
    for folder in (SAMPLE, tmp_path / "b"):
        settings = load_config("configs/quick.yaml", ["data.name=fashion-mnist", f"data.dir={folder}"])
        train, test = load_images(settings.data, settings.model)
        assert len(train) == 6000 and len(test) == 1000


def test_arrays_are_memory_mapped(tmp_path):
    for part in ("train", "test"):
        np.save(tmp_path / f"{part}_images.npy", small().pixels)
        np.save(tmp_path / f"{part}_labels.npy", small().labels)
    settings = config("data.name=arrays", f"data.dir={tmp_path}")
    train, _ = load_images(settings.data, settings.model)
    assert isinstance(train.pixels, np.memmap) and np.array_equal(train.pixels, small().pixels)


def idx(shape, content, magic=b"\x00\x00\x08"):
    return magic + bytes([len(shape)]) + np.array(shape, ">u4").tobytes() + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x08",
        idx((2, 3), b"12345"),
        idx((2, 3), b"1234567"),
        idx((2, 3), b"123456", b"\x00\x00\x09"),
        b"\x00\x00\x08\x00",
    ],
)
def test_a_file_that_is_not_whole_is_named(content, tmp_path):
    file = tmp_path / "images"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="images: not an IDX file of bytes, or cut short"):
        read_idx(file)
    assert np.array_equal(
        _written(tmp_path, idx((2, 3), b"123456")), np.frombuffer(b"123456", np.uint8).reshape(2, 3)
    )


def _written(folder, content):
    (folder / "good").write_bytes(content)
    return read_idx(folder / "good")


def one_bit(content):
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


def test_no_more_is_unpacked_than_an_idx_file_says(tmp_path):
    """A gigabyte of zeros packs into a megabyte; a header may promise anything."""
    head = b"\x00\x00\x08\x01" + (1000).to_bytes(4, "big")
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(head + bytes(2**30), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="bomb.gz: not an IDX file of bytes, or cut short"):
        read_idx(tmp_path / "bomb.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000  # KiB
    (tmp_path / "huge").write_bytes(b"\x00\x00\x08\x03" + b"\xff" * 12)
    with pytest.raises(ValueError, match="huge: unreadable: it says that it has 79,228,162"):
        read_idx(tmp_path / "huge")


@pytest.mark.parametrize("change", ["missing", "cut", "one bit", "not gzip", "swapped"])
def test_a_bad_folder_is_named(change, tmp_path):
    for name in IDX_FILES:
        (tmp_path / f"{name}.gz").write_bytes((SAMPLE / f"{name}.gz").read_bytes())
    victim = tmp_path / f"{IDX_FILES[0]}.gz"
    {
        "missing": victim.unlink,
        "cut": lambda: victim.write_bytes(victim.read_bytes()[:1000]),
        "one bit": lambda: victim.write_bytes(one_bit(victim.read_bytes())),
        "not gzip": lambda: victim.write_bytes(b"hello"),
        "swapped": lambda: victim.write_bytes((tmp_path / f"{IDX_FILES[1]}.gz").read_bytes()),
    }[change]()
    settings = load_config("configs/quick.yaml", ["data.name=fashion-mnist", f"data.dir={tmp_path}"])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        load_images(settings.data, settings.model)


@pytest.mark.parametrize(
    "overrides, complaint",
    [
        (["data.name=arrays"], "say where they are with --data DIR"),
        (["data.name=arrays", "data.dir=/nowhere"], "--data /nowhere: there is no such directory"),
        (["data.dir=/"], "data.name fashion-mnist-sample reads no files"),
        (["model.input=[3, 28, 28]"], "images have 1 channels, but model.input says 3"),
        (["model.input=[1, 32, 32]"], "--set data.crop=28 --set data.resize=32"),
        (["model.stages.4.fc8.out=8"], "are of 10 classes, but the network has 8 outputs"),
    ],
)
def test_images_that_do_not_suit_the_network_are_an_error(overrides, complaint):
    settings = load_config("configs/quick.yaml", overrides)
    with pytest.raises(ValueError) as error:
        load_images(settings.data, settings.model)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    "pixels, labels, complaint",
    [
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, int), r"uint8 \(N, H, W, C\)"),
        (np.zeros((2, 4, 4, 1)), np.zeros(2, int), r"uint8 \(N, H, W, C\)"),
        (np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, int), "there are no images"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, int), "2 images should have as many"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 10]), "labels from 0 to 10, with 10 classes"),
    ],
)
def test_images_check_their_form(pixels, labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        Images(pixels, labels, classes=10)


@pytest.mark.parametrize(
    "labels, complaint",
    [
        (np.array([0.5, 1.5]), "train_labels.npy: 2 images should have as many whole-number labels"),
        (np.array(["cat", "dog"]), "as many whole-number labels, not <U3 (2,)"),
        (np.array([0, 1, 2]), "2 images should have as many whole-number labels"),
    ],
)
def test_arrays_with_other_labels_are_an_error(labels, complaint, tmp_path):
    for part in ("train", "test"):
        np.save(tmp_path / f"{part}_images.npy", small(2).pixels)
        np.save(tmp_path / f"{part}_labels.npy", labels)
    settings = config("data.name=arrays", f"data.dir={tmp_path}")
    with pytest.raises(ValueError) as error:
        load_images(settings.data, settings.model)
    assert complaint in str(error.value)


def test_test_images_of_another_size_are_an_error(tmp_path):
    """Else their centre would be sought where that of the training images is."""
    for part, size in (("train", 12), ("test", 20)):
        np.save(tmp_path / f"{part}_images.npy", np.zeros((2, size, size, 3), np.uint8))
        np.save(tmp_path / f"{part}_labels.npy", np.zeros(2, int))
    settings = config("data.name=arrays", f"data.dir={tmp_path}")
    with pytest.raises(ValueError, match="are 12x12x3, test images 20x20x3: make them alike"):
        load_images(settings.data, settings.model)


@pytest.mark.parametrize(
    "name, wanted", [("fashion-mnist", "train-images-idx3-ubyte"), ("cifar-10", "cifar-10-batches-py")]
)
def test_a_failed_download_says_what_to_do(name, wanted, monkeypatch, tmp_path):
    """No test reaches for the network: downloads are pointed at a port where nothing listens."""
    from alexnet2gpu.data import sources

    monkeypatch.setattr(sources, "DOWNLOADS", tmp_path)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    overrides = [f"data.name={name}"] + ["model.input=[3, 32, 32]", "data.crop=null"] * (name == "cifar-10")
    settings = load_config("configs/quick.yaml", overrides)
    with pytest.raises(ValueError, match=f"could not be downloaded.*{wanted}.*--data FOLDER"):
        load_images(settings.data, settings.model)
