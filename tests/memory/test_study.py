"""If these fail, docs/memory.md or bench/results/ says what is no longer so. To make both
anew: python -m bench.memory"""

import json
from dataclasses import replace

import pytest
import torch
from conftest import REPOSITORY

from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory import any_mode
from alexnet2gpu.model.norm import native
from bench.memory import cases
from bench.results import rewrite


@pytest.fixture
def results():
    return json.loads((REPOSITORY / "bench" / "results" / "memory-cpu.json").read_text())


def test_the_tables_of_the_study_are_those_of_its_results(results):
    assert set(results) == set(cases.CASES)
    text = cases.PAGE.read_text()
    assert rewrite(text, cases.tables(results)) == text


def test_what_was_measured_at_full_size_is_predicted_today(results):
    """Every peak within 0.1 %; weights, gradients, momentum and buckets to the byte."""
    if native.compiled(torch.float32) is None:
        pytest.skip("measured with a C compiler, without which normalisation takes more memory")
    for case, found in results.items():
        name, settings, _ = cases.CASES[case]
        config = load_config(REPOSITORY / "configs" / f"{name}.yaml", settings)
        for row in found["rows"]:
            precision, batch = row["precision"], row["batch"]
            train = replace(config.train, batch=batch, precision=precision)
            expected = any_mode.predict(row["mode"], replace(config, train=train), 2, on_gpu=False)
            for measured in row["measured"] if expected else []:
                assert expected.bytes["peak"] == pytest.approx(measured["peak"], rel=1e-3), row
                for category in ("weights", "gradients", "momentum", "buckets", "batch"):
                    assert expected.bytes[category] == measured[category], (category, row)
