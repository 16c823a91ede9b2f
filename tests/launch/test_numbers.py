"""If these fail, a number in README.md or docs/data.md is not what is computed or was measured."""

import json
import re
import statistics

import pytest
from conftest import REPOSITORY, program

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import totals
from alexnet2gpu.memory.plan import Case
from alexnet2gpu.memory.report import MIB
from bench.modes import page as modes_page
from bench.results import RESULTS, rewrite
from bench.runs import __main__ as finetuning

README = (REPOSITORY / "README.md").read_text()
TEXT = " ".join(README.split())
DATA = (REPOSITORY / "docs" / "data.md").read_text()


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_the_table_of_memory_is_what_the_command_prints(capsys):
    program("memory").main(["--config", "configs/alexnet.yaml", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert f"```\n{printed}```" in README
    single, split = (
        float(re.search(rf"^{mode}.* ([\d.]+) \w+ \w+$", printed, re.M)[1]) for mode in ("single", "split")
    )
    assert f"{split / single:.0%} of one device's peak".replace("%", " %") in TEXT


@pytest.mark.slow
def test_the_table_of_passes_is_what_the_command_prints(capsys):
    program("memory").main(
        ["--config", "configs/alexnet.yaml", "--device", "cpu", "--set", "train.accumulate=4"]
    )
    assert f"```\n{capsys.readouterr().out}```" in (REPOSITORY / "docs" / "memory.md").read_text()


@pytest.mark.slow
def test_what_fits_into_the_gpus_of_2012(capsys):
    command = ["--config", "configs/alexnet.yaml", "--budget", "3GiB", "--modes", "single", "split", "ddp"]
    program("memory").main([*command, "--device", "cpu"])
    fits = re.findall(r"^(\w+) +\d+ +(\d+) .*, fits$", capsys.readouterr().out, re.MULTILINE)
    assert dict(fits) == {"single": "522", "split": "988", "ddp": "1040"}
    assert "522 images on one device, 988 split over two, 1040 with DDP" in TEXT


def test_the_networks_are_as_large_as_the_page_says():
    parameters, operations = totals(load_config("configs/alexnet.yaml").model)
    said = f"{parameters:,} parameters and {operations / 1e6:.1f} M multiply-adds"
    assert said in TEXT
    counts = [totals(load_config(f"configs/{name}.yaml").model) for name in ("textbook", "lenet")]
    parameters, operations = (ours / theirs for ours, theirs in zip(*counts))
    assert f"**{parameters:,.0f} times LeNet's parameters**" in TEXT
    assert f"**{operations:,.0f} times its multiply-adds**" in TEXT


@pytest.mark.parametrize(
    "name, mode, measured",
    [
        ("one device", "single", "one process"),
        ("split, 2 ranks", "split", "split"),
        ("DDP, 2 ranks", "ddp", "ours under DDP"),
    ],
)
def test_the_modes_cost_what_the_page_says(name, mode, measured):
    """Images a second as they were measured, memory as it is predicted today."""
    speed = results("speed-cpu")["batch 32"]["found"][measured]["images_per_second"]
    config = load_config("configs/alexnet.yaml", ["train.batch=32"])
    held = Case(mode, config, 2).predict(on_gpu=False).bytes
    mib = (f"{held[kind] / MIB:.1f}" for kind in ("weights", "saved_activations", "peak"))
    assert f"| {name} | {speed:.1f} | {' | '.join(mib)} |" in README


def test_speeds_are_those_that_were_measured():
    found = results("speed-cpu")["one device"]["found"]
    ours, port = (found[name]["images_per_second"] for name in ("ours", "ordinary port"))
    assert f"a step does {ours:.0f} images/s there, {ours / port:.1f} times the ordinary port" in TEXT
    speeds = results("loader-cpu")["images_per_second"]
    raw, others, pil = (
        statistics.median(speeds[name])
        for name in ("ours, raw", "per image, 2 workers", "PIL and torchvision")
    )
    text = " ".join(DATA.split())
    assert f"{round(raw, -2):,.0f} images a second" in text
    assert f"{raw / others:.1f} times as many as two workers" in text
    assert f"{raw / pil:.1f} times as many as PIL" in text


def test_errors_on_caltech_are_those_of_the_run():
    errors = json.loads((REPOSITORY / "docs/results/caltech/results.json").read_text())["errors"]
    centre, ten = (errors[f"one device; views: {views}"]["top1_error"] for views in (1, 10))
    assert f"top-1 error of {centre:.1%}".replace("%", " %") in TEXT
    assert f"ten views {ten:.1%}".replace("%", " %") in TEXT


def test_the_table_of_fine_tuning_is_that_of_its_results():
    """To draw it anew: python -m bench.runs DIR"""
    text = finetuning.PAGE.read_text()
    assert rewrite(text, {"finetune": finetuning.drawn(results("finetune-cpu")["errors"])}) == text


def test_the_tables_of_the_modes_are_those_of_their_results():
    """To draw them anew: python -m bench.modes page"""
    text = modes_page.PAGE.read_text()
    assert rewrite(text, modes_page.tables()) == text
    assert "up to a batch of 54, less than DDP up to 997" in text  # tests/ranks/test_cost.py has them
