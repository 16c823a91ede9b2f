"""If these fail, bench/speed compares other networks than it says, or miscounts arithmetic,
or docs/speed.md and docs/faults.md have other figures than bench/results."""

import json
import re

import pytest
import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import totals
from alexnet2gpu.model.model import AlexNet
from bench.faults import __main__ as faults
from bench.faults.table import drawn
from bench.results import RESULTS, rewrite
from bench.speed import __main__ as speed
from bench.speed import ports, tables
from bench.speed.race import Spec, race


@pytest.mark.parametrize("name", ["quick", "caffe"])
def test_a_port_is_the_same_function(name):
    """Logits and gradients in float64, dropout off."""
    network = load_config(f"configs/{name}.yaml").model
    model = AlexNet(network, seed=0).double().eval()
    port = ports.Port(network).double().eval()
    draw = torch.Generator().manual_seed(0)
    x = 60 * torch.randn(2, *network.input, generator=draw, dtype=torch.float64)
    scale = {"quick": 0.5}.get(name, 1.0)  # of 2012's dropout when it is off
    port.take(model)
    for layer in port:
        if isinstance(layer, torch.nn.Dropout):
            layer.forward = lambda x: scale * x
    torch.testing.assert_close(port(x), model(x), rtol=1e-10, atol=1e-12)
    loss = [net(x).square().sum() for net in (port, model)]
    for each in loss:
        each.backward()
    ours = torch.cat([tower.conv1.weight.grad for tower in model.towers.values()])
    torch.testing.assert_close(port.named["conv1"].weight.grad, ours, rtol=1e-8, atol=1e-12)


def test_columns_have_the_shapes_and_weights_of_the_network():
    network = load_config("configs/quick.yaml").model
    columns = ports.Columns(network)
    assert columns(torch.zeros(2, *network.input)).shape == (2, 10)
    assert sum(p.numel() for p in columns.parameters()) == totals(network)[0]


def test_training_an_image_takes_4136_million_operations():
    """1.449 forward and 2.687 backward, none for the gradient of the image."""
    flops = speed.flops(load_config("configs/alexnet.yaml").model)
    assert flops == pytest.approx(4.136e9, rel=1e-3)


def test_the_tables_of_docs_speed_are_those_of_the_results():
    """To draw them anew: python -m bench.speed --redraw"""
    files = (RESULTS / f"{name}-cpu.json" for name in ("speed", "exchange"))
    found = [json.loads(file.read_text()) for file in files]
    text, drawn = tables.PAGE.read_text(), tables.tables(*found)
    assert rewrite(text, drawn) == text
    assert set(drawn) == set(re.findall("<!-- (?!end)(.+) -->", text))


def test_the_table_of_docs_faults_is_that_of_the_results():
    """To draw it anew: python -m bench.faults --redraw"""
    parts, text = json.loads(faults.FILE.read_text()), faults.PAGE.read_text()
    assert set(parts) == set(faults.PARTS)
    assert rewrite(text, {"faults": drawn(parts)}) == text


@pytest.mark.slow
def test_a_contender_that_cannot_start_is_left_out(capfd):
    """As one that needs a GPU, or more memory than there is: the others are measured."""
    tiny = "configs/quick.yaml"
    contenders = {"ours": Spec("single", tiny), "none": Spec("no such port", tiny)}
    found = race(contenders, batch=4, rounds=1, steps=1)
    assert list(found) == ["ours"] and len(found["ours"][2]) == 1
    assert "none: a rank has ended: it is left out" in capfd.readouterr().out
