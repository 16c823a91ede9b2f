"""If these fail, the kernels for GPUs do not compute what torch's operations do, or a layer does not choose
them as it should. interpreted.py has the checks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.model.norm import layer

REPOSITORY = Path(__file__).resolve().parents[2]
CHECKS = [
    "normalisation_is_its_formula",
    "normalisation_shows_what_is_not_a_number",
    "max_pooling_is_torchs",
    "max_pooling_asks_for_no_more_than_it_keeps",
    "the_update_is_its_rule",
    "blocks_are_the_image_cut_up",
    "convolution_over_blocks_is_torchs",
    "convolution_over_blocks_is_in_autocasts_type",
]


@pytest.fixture(scope="module")
def failed():
    """Check -> how it failed."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("interpreted.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("check", CHECKS)
def test_in_tritons_interpreter(check, failed):
    assert check not in failed, failed[check]


@pytest.mark.parametrize("across, widest", [(True, 15), (False, 7)])
def test_triton_is_not_asked_for_wide_windows(across, widest, monkeypatch):
    """It compiles them for minutes."""
    asked = []
    monkeypatch.setattr(layer, "has_triton", lambda: True)
    monkeypatch.setattr(layer, "by_kernel", lambda x, *rule: asked.append(NormRule(*rule).size) or x)
    with FakeTensorMode():
        x = torch.empty(2, 8, 5, 5, device="cuda", memory_format=torch.channels_last)
        for size in (widest, widest + 2):
            assert layer.ResponseNorm(NormRule(across, size, 0.1, 0.75, 1))(x).shape == x.shape
    assert asked == [widest]
