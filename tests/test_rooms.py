"""If these fail, a room of the house has a door that it should not have: see "The lesson" in
README.md, and CONTRIBUTING.md."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "alexnet2gpu"
MAY = {  # room -> the rooms that it may import; the first four are the study
    "config": "",
    "model": "config",
    "ranks": "config model",
    "memory": "config model ranks",
    "faults": "ranks",
    "data": "config model ranks faults",
    "runs": "config model ranks memory faults data",
    "figures": "config model memory data runs",
}


def modules(file, package=PACKAGE):
    """What a file of the package imports from it, wherever in the file, in any form of the
    statement: paths below the package, such as model/model/AlexNet."""
    here = file.relative_to(package.parent).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) + 1 - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        yield from ("/".join(name[1:]) for name in names if name[0] == package.name)


def rooms(file, package=PACKAGE):
    """The rooms that a file imports, its own among them."""
    return {path.split("/")[0] for path in modules(file, package)} & set(MAY)


def test_the_top_of_the_package_is_its_rooms():
    there = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert there == {"__init__.py", "__main__.py", *MAY}


def test_a_room_may_import_only_rooms_above_it():
    for number, (room, others) in enumerate(MAY.items()):
        assert set(others.split()) <= set(list(MAY)[:number]), room


def file_of(path):
    """The file that an imported path leads to: model/model/AlexNet is in model/model.py; None if to a
    room's, or the package's, __init__."""
    for candidate in (path, path.rpartition("/")[0]):
        if (file := PACKAGE / f"{candidate}.py").is_file():
            return file


def test_no_file_imports_itself_by_way_of_others():
    """And the exchange, which strangers read, needs nothing but the link."""
    graph = {file: {file_of(path) for path in modules(file)} - {None} for file in PACKAGE.rglob("*.py")}
    reach = {}
    for file in graph:
        seen, todo = set(), [file]
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        assert file not in seen, f"{file} imports itself, by way of others"
        reach[file] = seen
    assert reach[PACKAGE / "ranks" / "exchange.py"] == {PACKAGE / "ranks" / "link.py"}


@pytest.mark.parametrize("room", MAY)
def test_a_room_imports_only_those_that_it_may(room):
    for file in (PACKAGE / room).rglob("*.py"):
        assert rooms(file) <= {room, *MAY[room].split()}, file


def test_measurement_has_no_part_in_prediction():
    """So that it can show it wrong: they share only the places of a step."""
    found = {path for path in modules(PACKAGE / "memory" / "measured.py") if path.startswith("memory/")}
    assert {path.rpartition("/")[0] for path in found} == {"memory/places"}


@pytest.mark.parametrize(
    "line, found",
    [
        ("from alexnet2gpu.runs.loop import fit", {"runs"}),
        ("from alexnet2gpu import runs", {"runs"}),
        ("from alexnet2gpu import load, runs as others", {"runs"}),
        ("import alexnet2gpu.runs.loop", {"runs"}),
        ("import sys, alexnet2gpu.runs as others", {"runs"}),
        ("from ..runs import loop", {"runs"}),
        ("from ..runs.loop import fit", {"runs"}),
        ("from .. import runs", {"runs"}),
        ("def late():\n    from alexnet2gpu.runs import loop", {"runs"}),
        ("from . import network", {"config"}),
        ("from torch import nn\nimport runs", set()),
    ],
)
def test_every_form_of_an_import_is_seen(line, found, tmp_path):
    file = tmp_path / "alexnet2gpu" / "config" / "new.py"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    assert rooms(file, tmp_path / "alexnet2gpu") == found


STUDY = """
import sys, torch
from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory.predict import parts_of, predict, random_batch
from alexnet2gpu.model.step import train_step
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
config = load_config(sys.argv[1])
with Ranks(Grid(towers=range(2)), 1) as ranks:
    (model, _, optimizer), batch = parts_of("single", config, ranks), random_batch(config, ranks)
    assert train_step(model, optimizer, *batch).isfinite().all()
assert predict("split", config, 2, on_gpu=False).bytes["weights"] == 4 * sum(
    parameter.numel() for parameter in model.towers["0"].parameters())
"""


@pytest.mark.slow
def test_the_first_four_rooms_stand_alone(tmp_path):
    """As README says: copied, they are the two-GPU AlexNet with its memory model."""
    for room in list(MAY)[:4]:
        shutil.copytree(PACKAGE / room, tmp_path / "alexnet2gpu" / room)
    quick = PACKAGE.parent / "configs" / "quick.yaml"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", STUDY, quick]
    assert not subprocess.run(command, cwd=tmp_path, env=environment).returncode


@pytest.mark.parametrize("module", ["config.keys", "faults.mistakes", "ranks.modes", "ranks.plans"])
def test_what_is_needed_before_torch_does_not_import_it(module):
    code = f"import sys, alexnet2gpu.{module}; sys.exit('torch' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode
