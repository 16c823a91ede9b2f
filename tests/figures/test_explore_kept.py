"""If these fail, docs/explore.html is not what this code says: make it anew, by launch/memory.py --page."""

import base64
import json
import re
import zlib

import pytest

from alexnet2gpu.config.load import load_config
from alexnet2gpu.figures.explore import write_page
from alexnet2gpu.memory.plan import Case
from bench.results import REPOSITORY

FILE = REPOSITORY / "docs" / "explore.html"


@pytest.fixture(scope="module")
def data():
    (packed,) = re.findall(r'id="data">([^<]*)<', FILE.read_text())
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def peak(data, found, batch):
    """Bytes of the fullest place: storages are made and end, one after another."""
    units = batch // found["unit"]
    (step,) = (step for first, last, step in found["pieces"] if first <= units <= last)
    storages, events, _ = data["steps"][step]
    held, most = 0, 0
    for event in events:
        _, base, slope = storages[event if event >= 0 else -event - 1]
        held += (base + slope * units) * (1 if event >= 0 else -1)
        most = max(most, held)
    return most


@pytest.mark.parametrize("mode, batch", [("split", 128), ("ddp", 300)])
def test_memory_is_what_is_predicted(mode, batch, data):
    """On a GPU: of a CPU it depends on its kind and on a C compiler."""
    case = Case.on(mode, load_config("configs/alexnet.yaml"), 2)
    (found,) = (
        one for one in data["memory"]["2|float32|none|gpu"] if (one["mode"], one["ranks"]) == (mode, 2)
    )
    assert peak(data, found, batch) == case.with_batch(batch).predict(True).peak


def test_the_rest_of_the_page_is_of_this_code(data, tmp_path):
    write_page(data, tmp_path / "explore.html")
    assert (tmp_path / "explore.html").read_text() == FILE.read_text()
