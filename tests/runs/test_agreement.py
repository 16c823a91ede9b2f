"""If these fail, ranks that were told different things train nonsense in silence."""

import socket
from dataclasses import replace

import numpy as np
import pytest

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.images import Images
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from alexnet2gpu.ranks.torchrun import grid_of
from alexnet2gpu.runs import agreement


def images(count=70, **changed):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (count, 5, 7, 3), np.uint8)
    return replace(Images(pixels, np.arange(count) % 3, 3, ("ant", "bee", "cat")), **changed)


def told(*settings, train=None, test=None):
    config = load_config("configs/quick.yaml", settings)
    sets = {"training images": train or images(), "test images": test or images(5)}
    return agreement.told([config], sets)


def differing(other):
    """Of what was told by default, and of `other`."""
    here = told()
    return [key for key in here | other if here.get(key) != other.get(key)]


@pytest.mark.parametrize(
    "setting",
    ["train.seed=1", "train.batch=8", "train.epochs=9", "optim.weight_decay=0.1", "model.stages.0.norm1.k=1"],
)
def test_every_key_counts(setting):
    assert differing(told(setting)) == [setting.split("=")[0]]


def test_a_machine_may_have_its_own_place_and_threads():
    assert differing(told("data.dir=/elsewhere", "train.threads=3", "data.threads=1")) == []


def test_images_count_wherever_they_are():
    other = images().pixels.copy()
    other[0, 0, 0] ^= 1
    assert differing(told(train=images(pixels=other))) == ["training images.pixels"]
    assert differing(told(test=images(6))) == [f"test images.{key}" for key in ("number", "labels", "pixels")]
    renamed = images(names=("ant", "bee", "zebra"))
    assert differing(told(train=renamed)) == ["training images.classes"]
    assert differing(told(train=images(labels=np.arange(70) % 2))) == ["training images.labels"]


def test_the_code_counts(monkeypatch, tmp_path):
    (tmp_path / "one.py").write_text("x = 1")
    monkeypatch.setattr(agreement.alexnet2gpu, "__file__", str(tmp_path / "one.py"))
    before = agreement.versions()
    (tmp_path / "one.py").write_text("x = 2")
    after = agreement.versions()
    assert [key for key in after if after[key] != before[key]] == ["code"]


def compare(*keys):
    """On each rank: what is said if rank 1 was told other things by these keys."""
    with Ranks(grid_of(2, "split"), 1) as ranks:
        mine = {"train.seed": 0, "--out": "run", "version.torch": "2.14"}
        try:
            agreement.check_agreement(mine | dict.fromkeys(keys, 7) if ranks.grid.rank else mine, ranks)
        except ValueError as error:
            return str(error)


def test_what_differs_is_named_with_its_machine_on_every_rank(on_ranks):
    host = socket.gethostname()
    said = f"ranks were told different things: --out is run on {host} (rank 0), 7 on {host} (rank 1); "
    said += f"train.seed is 0 on {host} (rank 0), 7 on {host} (rank 1): "
    said += "start all with the same command, code and images"
    found = on_ranks(compare, 2, "--out", "train.seed")
    assert [sorted(answer) for answer in found] == [sorted(said)] * 2  # in any order
    assert on_ranks(compare, 2) == [None, None]
    many = on_ranks(compare, 2, *"abcdefg")[1]
    assert many.count(" is None on ") == agreement.SHOWN and "; and 2 more: start" in many


def test_one_rank_agrees_with_itself():
    with Ranks(Grid()) as ranks:
        agreement.check_agreement(told(), ranks)
