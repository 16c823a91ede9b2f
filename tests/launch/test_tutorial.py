"""If this fails, docs/tutorial.ipynb does not run, or prints something else than it shows."""

import json

import pytest
from conftest import REPOSITORY

FILE = REPOSITORY / "docs" / "tutorial.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    monkeypatch.chdir(REPOSITORY)
    names = {}
    for cell in json.loads(FILE.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            shown = ["".join(output["text"]) for output in cell["outputs"] if "text" in output]
            assert capsys.readouterr().out == "".join(shown)
            drawn = any("image/png" in output.get("data", {}) for output in cell["outputs"])
            assert bool(pyplot.get_fignums()) == drawn
            pyplot.close("all")
