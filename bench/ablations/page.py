"""docs/ablations.md from the rows: tables between their marks, pictures in docs/results/ablations."""

from collections.abc import Mapping

from bench.ablations import draw, stats
from bench.ablations.arms import BASE
from bench.ablations.findings import FAMILIES, LEVEL, Finding, families, finals
from bench.ablations.jobs import Job
from bench.ablations.runs import rows
from bench.ablations.tables import tables
from bench.results import REPOSITORY, redraw

PAGE = REPOSITORY / "docs" / "ablations.md"
CURVES = {  # file -> title, suite, arms and what they are called, what is drawn, its label and a level
    "activations": (
        "clothes: activations",
        "fashion",
        {BASE: "ReLU", "tanh": "tanh", "sigmoid": "sigmoid"},
        "test_error",
        ["test error, %"],
    ),
    "dropout": (
        "clothes: dropout",
        "fashion",
        {BASE: "0.5", "dropout 0.3": "0.3", "no dropout": "none"},
        "test_error",
        ["test error, %"],
    ),
    "figure1": (
        "CIFAR-10, as in the paper's Figure 1",
        "figure 1",
        {BASE: "ReLU", "tanh": "tanh"},
        "train_error",
        ["training error, %", 100 * LEVEL],
    ),
}
PICTURES = REPOSITORY / "docs" / "results" / "ablations"


def pictures(all_of: Mapping[str, list[Finding]], found: Mapping[Job, dict]) -> None:
    """All of them."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for suite, of in all_of.items():
        if arms := [f for f in of if f.arm != BASE]:
            lines = [(f.arm, f.difference, f.ends, stats.seen(f.ends, f.corrected)) for f in arms]
            draw.forest(f"{FAMILIES[suite]}: differences from the base", lines, PICTURES / f"{suite}.png")
    for name, (title, suite, arms, key, labels) in CURVES.items():
        lines = {}
        for arm, called in arms.items():
            if some := [row for row in finals(suite, arm, found) if not row["failed"]]:
                seconds, errors = ([row[key] for row in some] for key in ("seconds", key))
                lines[f"{called}, rate {some[0]['rate']:g}"] = seconds, errors
        if lines:
            draw.curves(title, lines, labels, PICTURES / f"{name}.png")


def main() -> None:
    """All of the page that rows are there for."""
    found = rows()
    all_of = families(found)
    pictures(all_of, found)
    redraw(PAGE, tables(all_of, found))
