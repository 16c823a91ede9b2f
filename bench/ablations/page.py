"""The page from the rows: tables between their marks, pictures in docs/results/ablations. It moves to docs/
as soon as all tables are there."""

from collections.abc import Mapping

from bench.ablations import draw
from bench.ablations.arms import BASE, HERE
from bench.ablations.findings import FAMILIES, LEVEL, Finding, evidence, families, finals
from bench.ablations.jobs import Job
from bench.ablations.runs import rows
from bench.ablations.tables import tables
from bench.results import REPOSITORY, redraw

PAGE = HERE / "ablations.md"
PICTURES = REPOSITORY / "docs" / "results" / "ablations"


def pictures(all_of: Mapping[str, list[Finding]], found: Mapping[Job, dict]) -> None:
    """All of them."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    said = {(suite, f.arm): verdict for _, suite, f, verdict in evidence(all_of)}
    for suite, of in all_of.items():
        rows_ = [(f.arm, f.difference, f.ends, said.get((suite, f.arm), "")) for f in of if f.arm != BASE]
        if rows_:
            draw.forest(f"{FAMILIES[suite]}: what each lacks", rows_, PICTURES / f"{suite}.png")
    shown = {
        "activations": ("fashion", [BASE, "tanh", "sigmoid"], "test_error", ["test error, %"]),
        "dropout": ("fashion", [BASE, "dropout 0.3", "no dropout"], "test_error", ["test error, %"]),
        "figure 1": ("figure 1", [BASE, "tanh"], "train_error", ["training error, %", 100 * LEVEL]),
    }
    for name, (suite, arms, key, labels) in shown.items():
        called = {BASE: "ReLU"} if "tanh" in arms else {}
        lines = {}
        for arm in arms:
            if some := [row for row in finals(suite, arm, found) if not row["failed"]]:
                lines[called.get(arm, arm)] = [row["seconds"] for row in some], [row[key] for row in some]
        if lines:
            title = f"{FAMILIES.get(suite, 'CIFAR-10')}: {name}"
            draw.curves(title, lines, labels, PICTURES / f"{name.replace(' ', '')}.png")


def main() -> None:
    """All of the page that rows are there for."""
    found = rows()
    all_of = families(found)
    pictures(all_of, found)
    redraw(PAGE, tables(all_of, found))
