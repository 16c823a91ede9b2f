"""If these fail, training does not see the pixels, colours and batches that it saw in 2012.

Batches are compared with loops over single images in plain numpy.
"""

import numpy as np
import pytest
import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data import prepare as prepare_module
from alexnet2gpu.data.batches import TrainBatches
from alexnet2gpu.data.crops import Corners
from alexnet2gpu.data.epoch import draw_epoch
from alexnet2gpu.data.images import Images
from alexnet2gpu.data.prepare import Preparation, colour_components
from alexnet2gpu.ranks.modes import Grid

CPU = torch.device("cpu")
CROP, BATCH = 8, 6


def coloured(count=40, height=13, width=12):
    """Photographs whose channels go together, as those of photographs do."""
    draw = np.random.default_rng(0)
    grey = draw.normal(120, 50, (count, height, width, 1))
    tint = draw.normal(0, 1, (count, 1, 1, 3)) * [25, 5, 15]
    pixels = grey * [1, 0.9, 0.7] + tint + draw.normal(0, 9, (count, height, width, 3))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return Images(pixels, draw.integers(0, 10, count), classes=10)


def config(*overrides):
    """Crops of 8, batches of 6, colour noise and mirroring; from epoch 3 on without noise."""
    return load_config(
        "configs/quick.yaml",
        [
            f"data.crop={CROP}",
            f"train.batch={BATCH}",
            "data.flip=true",
            "data.colour=0.3",
            "model.input=[3, 8, 8]",
            "model.stages=[{flatten: flatten, fc: {type: linear, out: 10, init: 1}}]",
            "optim.schedule=[{epoch: 1, weights: 0, biases: 0}, {epoch: 3, colour: 0}]",
            *overrides,
        ],
    )


def batches(images, settings, replica=0, replicas=1):
    """As launch/train.py makes them."""
    return TrainBatches(images, settings, Preparation(images, settings, CPU), Grid(replica, replicas))


def principal(images):
    """Eigenvalues and eigenvectors of the colours, each vector's largest entry positive."""
    values, vectors = np.linalg.eigh(np.cov(images.pixels.reshape(-1, 3).T.astype(float), ddof=0))
    for vector in vectors.T:
        vector *= np.sign(vector[np.abs(vector).argmax()])
    return values, vectors


def one_by_one(images, settings, epoch, strength):
    """Image by image in numpy: crop, mirror, less the mean, plus the colour, divided."""
    law, seed = settings.data.colour_law, settings.train.seed
    table = draw_epoch(seed, epoch, images.pixels.shape, CROP, settings.data.flip)
    values, vectors = principal(images)
    sigma = np.sqrt(values) if law == "2012" else values / 255
    mean = images.pixels.astype(np.float64).mean(0)[2 : 2 + CROP, 2 : 2 + CROP]
    pictures = []
    for i in table.order[: len(images) // BATCH * BATCH]:
        y, x = table.top[i], table.left[i]
        crop = images.pixels[i].astype(np.float64)[y : y + CROP, x : x + CROP]
        crop = crop[:, ::-1] if table.flip[i] else crop
        picture = crop - mean + vectors @ (strength * table.colour[i] * sigma)
        picture /= settings.data.divide * (1 + strength if law == "2012" else 1)
        pictures.append(picture.transpose(2, 0, 1))
    return np.stack(pictures), images.labels[table.order[: len(pictures)]]


@pytest.mark.parametrize("epoch, strength", [(2, 0.3), (3, 0)])
@pytest.mark.parametrize("law", ["2012", "text"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("at_once", [1, 400, 2**18])  # 1, 2 or all images at a time
def test_batches_with_colour_noise_are_those_made_one_by_one(
    epoch, strength, law, precision, at_once, monkeypatch
):
    monkeypatch.setattr(prepare_module, "CACHED_ELEMENTS", at_once)
    images = coloured()
    settings = config(f"data.colour_law={law}", f"train.precision={precision}", "data.divide=2")
    seen = list(batches(images, settings).epoch(epoch))
    pictures, labels = one_by_one(images, settings, epoch, strength)
    x = torch.cat([x for x, _ in seen])
    assert len(seen) == 6 and x.dtype == getattr(torch, precision)
    np.testing.assert_allclose(x.numpy(), pictures, rtol=0, atol=1e-6 * 255)
    assert torch.cat([labels for _, labels in seen]).tolist() == labels.tolist()


def test_the_noise_of_the_reference_matters():
    """Without it, and with the other law, the comparison above would see it."""
    images, settings = coloured(), config()
    with_noise, without = (one_by_one(images, settings, 1, s)[0] for s in (0.3, 0))
    other = one_by_one(images, config("data.colour_law=text"), 1, 0.3)[0]
    assert np.abs(with_noise - without).max() > 5 and np.abs(with_noise - other).max() > 5


@pytest.mark.parametrize("threads", [1, 3])
def test_crops_are_slices_to_the_bit(threads):
    """Of more batches than there are buffers, and of fewer images at the end."""
    images, draw = coloured(), np.random.default_rng(1)
    corners = [
        Corners(*(draw.integers(limit, size=count) for limit in (40, 6, 5))) for count in [7] * 9 + [2]
    ]
    prepare = Preparation(images, config(f"data.threads={threads}"), CPU)
    for crops, (chosen, top, left) in zip(prepare.cut(images, corners), corners):
        expected = [images.pixels[i][y : y + CROP, x : x + CROP] for i, y, x in zip(chosen, top, left)]
        assert crops.dtype == torch.uint8 and np.array_equal(crops.numpy(), expected)


def test_how_far_colours_move_is_drawn_from_a_normal_distribution():
    moves = draw_epoch(0, 1, (40_000, 9, 9, 3), 8, True).colour
    assert moves.shape == (40_000, 3)
    np.testing.assert_allclose(moves.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(np.cov(moves.T), np.eye(3), atol=0.03)
    assert np.mean(np.abs(moves) > 1.96) == pytest.approx(0.05, abs=0.005)
    assert not np.array_equal(moves, draw_epoch(0, 2, (40_000, 9, 9, 3), 8, True).colour)


@pytest.mark.parametrize("law", ["2012", "text"])
def test_the_noise_has_the_covariance_of_the_pixels(law):
    """strength^2 times it, over many draws on black images; by the law of the text, with the
    eigenvalues, of pixels from 0 to 1, in place of their roots."""
    images = coloured()
    prepare = Preparation(images, config("data.mean=none", f"data.colour_law={law}"), CPU)
    colour = draw_epoch(0, 1, (40_000, 9, 9, 3), 8, True).colour
    black = torch.zeros(len(colour), 1, 1, 3, dtype=torch.uint8)
    noise = prepare(black, colour=colour, strength=0.3).flatten(1).double().numpy()
    covariance = np.cov(images.pixels.reshape(-1, 3).T.astype(float))
    if law == "2012":
        noise = noise * 1.3
    else:
        covariance = covariance @ covariance / 255**2
    np.testing.assert_allclose(
        np.cov(noise.T), 0.3**2 * covariance, rtol=0, atol=0.05 * 0.3**2 * covariance.max()
    )


def test_the_components_of_imagenet_have_the_lengths_that_were_published():
    """Standard deviations along the principal components of ImageNet's colours; any directions."""
    lengths = np.array([19.7, 37.1, 121.8])
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    covariance = axes @ np.diag(lengths**2) @ axes.T
    for law, expected in (("2012", lengths), ("text", lengths**2 / 255)):
        components = colour_components(covariance, law)
        np.testing.assert_allclose(np.linalg.norm(components, axis=0), expected, rtol=1e-6)
        cosines = (components / expected * axes).sum(0)
        np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-6)


@pytest.mark.parametrize("law", ["2012", "text"])
def test_grey_photographs_have_one_component(law):
    """Their covariance has no other eigenvalues than rounding errors, of either sign."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        grey = draw.normal(100, 50, (500, 1)) * [1, 1, 1]
        components = colour_components(np.cov(grey.T), law)
        assert np.isfinite(components).all() and np.abs(components[:, :2]).max() < 1e-3


def same(ones, others):
    """Whether two lists of batches are equal to the bit."""
    return len(ones) == len(others) and all(
        torch.equal(a, b) for one, other in zip(ones, others) for a, b in zip(one, other)
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_of_ranks_replicas_and_resumed_runs_are_parts_of_the_same(threads):
    """Two ranks of a split see the same; three replicas together what one sees; a run that is
    resumed in mid-epoch the rest. Threads change nothing."""
    images, settings = coloured(), config(f"data.threads={threads}")
    whole = list(batches(images, config("data.threads=2")).epoch(2))
    assert same(whole, list(batches(images, settings).epoch(2)))
    parts = [list(batches(images, settings, replica, 3).epoch(2)) for replica in range(3)]
    assert {len(x) for part in parts for x, _ in part} == {2}
    together = [tuple(torch.cat(tensors) for tensors in zip(*step)) for step in zip(*parts)]
    assert same(whole, together)
    assert same(whole[4:], list(batches(images, settings).epoch(2, first=4)))
    assert not same(whole, list(batches(images, settings).epoch(1)))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mean", ["image", "none"])
def test_a_batch_does_not_change_while_later_ones_are_cut(threads, mean):
    """The buffers of the crops are used again; what was given lies elsewhere."""
    images = coloured(200)
    settings = config(f"data.threads={threads}", f"data.mean={mean}", "data.flip=false")
    for epoch in (1, 3):  # with colour noise and without
        seen = [
            ((x, labels), (x.clone(), labels.clone())) for x, labels in batches(images, settings).epoch(epoch)
        ]
        assert len(seen) == 33 and same(*(list(kept) for kept in zip(*seen)))
