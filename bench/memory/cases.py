"""The cases that python -m bench.memory measures, and the tables of docs/memory.md that are drawn of them."""

import itertools

from alexnet2gpu.memory.report import MIB, fullest
from bench.results import REPOSITORY, table

PAGE = REPOSITORY / "docs" / "memory.md"
NAMES = {"single": "one device", "split": "split over 2", "ddp": "DDP over 2", "grid": "2 x 2 grid"}
FOUR = list(NAMES)
NEAR = ["to the byte", "within 0.1 %", "within 1 %", "worst"]
NAMES["fsdp"] = "FSDP2 over 2"
KINDS = ["weights", "momentum", "gradients", "batch", "saved_activations"]
MEASURED = ["--measure", "--batches", "128"]
BATCHES = [*MEASURED, "16"]
BOTH = ["--precision", "float32", "bfloat16"]
OFF = ["norm_input_only", "pool_places_only", "image_unpadded", "relu_in_place", "gradients_in_buckets"]
LEVERS = {f"{lever}: false": [f"memory.{lever}=false"] for lever in OFF}
LEVERS["all five"] = sum(LEVERS.values(), [])
LEVERS |= {"regather: true": ["memory.regather=true"], "recompute: [1]": ["memory.recompute=[1]"]}
CASES = {  # name: (config, settings, further options) of launch/memory.py
    "modes": ("alexnet", [], MEASURED),
    "budget": ("alexnet", [], ["--budget", "3GiB", "--modes", *FOUR]),
    **{
        f"lever {name}": ("alexnet", settings, [*MEASURED, "--modes", *FOUR])
        for name, settings in LEVERS.items()
    },
    "quick": ("quick", [], [*BATCHES, *BOTH, "--modes", *FOUR]),
    "textbook": ("textbook", [], [*BATCHES, "--modes", "single", "ddp"]),
    "alexnet": ("alexnet", [], [*BATCHES, "--modes", *FOUR]),
    "bfloat16": ("alexnet", [], [*BATCHES[1:], "--precision", "bfloat16", "--modes", *FOUR]),
}


def tables(cases):
    """The tables of docs/memory.md by the names of their marks, of those cases that are there."""
    drawn = {"modes": ("modes", _modes), "half": ("modes", _half)}
    drawn |= {"budget": ("budget", _budget)}
    texts = {name: draw(cases[case]["rows"]) for name, (case, draw) in drawn.items() if case in cases}
    return texts | {"batches": _batches(cases), "levers": _levers(cases), "errors": _errors(cases)}


def _mib(size):
    return f"{size / MIB:.1f}"


def _peak(row):
    return _mib(fullest(row["measured"])["peak"])


def _both(row):
    """The peak as predicted and as measured, if it was, or one figure if they agree to its last digit."""
    measured = [_peak(row)] if "measured" in row else []
    return ", ".join(dict.fromkeys([_mib(row["predicted"]["peak"]), *measured]))


def _find(rows, **wanted):
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    return row


def _place(row):
    passing, *_, module = row["worst"]
    return f"{passing} of {module.split('.')[-1]}"


def _modes(rows):
    lines = []
    for row in rows:
        expected = row["predicted"]
        parts = [_mib(expected[kind]) for kind in [*KINDS, "peak"]]
        lines.append([NAMES[row["mode"]], *parts, f"**{_peak(row)}**", _place(row)])
    head = ["", *KINDS[:4], "saved for backward", "peak, predicted", "measured", "where"]
    return table(head, lines)


def _half(rows):
    kinds = {
        "weights, momentum, gradients": [*KINDS[:3], "buckets"],
        "the batch: every rank sees every image": ["batch"],
        "gradients of activations": ["temporary", "gradients of activations"],
        "activations still saved": ["activations"],
    }
    whole, half = (_find(rows, mode=mode)["at_worst"] for mode in ("single", "split"))
    sizes = [
        (name, *(sum(held.get(part, 0) for part in parts) for held in (whole, half)))
        for name, parts in kinds.items()
    ]
    sizes.append(("all", sum(whole.values()), sum(half.values())))
    lines = [[name, _mib(one), _mib(two), _mib(two - one / 2)] for name, one, two in sizes]
    lines[-1] = [f"**{cell}**" for cell in lines[-1]]
    return table(["at the peak", "one device", "split", "more than half"], lines)


def _budget(rows):
    lines = []
    for mode in FOUR:
        fits, beyond = (row for row in rows if row["mode"] == mode)
        peaks = [_mib(row["predicted"]["peak"]) for row in (fits, beyond)]
        cells = [f"**{fits['batch']}**", peaks[0], beyond["batch"], peaks[1], _place(beyond)]
        lines.append([NAMES[mode], *cells])
    head = ["", "largest batch", "peak", "the next", "peak", "where"]
    return table(head, lines)


def _batches(cases):
    lines = []
    rows = [row for case in ("alexnet", "bfloat16") if case in cases for row in cases[case]["rows"]]
    for precision, batch in itertools.product({row["precision"]: 0 for row in rows}, (16, 128)):
        found = [_find(rows, mode=mode, batch=batch, precision=precision) for mode in FOUR]
        lines.append([precision, batch, *map(_both, found)])
    return table(["", "batch", *(NAMES[mode] for mode in FOUR)], lines)


def _levers(cases):
    shown = {name: (f"`{name}`", f"lever {name}", "float32") for name in LEVERS}
    shown["all five"] = ("all five", *shown["all five"][1:])
    shown = [("as it is", "modes", "float32"), *shown.values(), ("`bfloat16`", "bfloat16", "bfloat16")]
    lines = []
    for name, case, precision in shown:
        if case in cases:
            rows = cases[case]["rows"]
            found = [_find(rows, mode=mode, batch=128, precision=precision) for mode in FOUR]
            saved = _mib(found[0]["predicted"]["saved_activations"])
            lines.append([name, saved, *map(_both, found)])
    return table(["", "saved, one device", *(NAMES[mode] for mode in FOUR)], lines)


def _errors(cases):
    """Of each network: peaks of ranks measured, how near they were predicted."""
    groups = {}
    for case, (config, *_) in CASES.items():
        more = ", levers" if case.startswith("lever") else ""
        for row in cases[case]["rows"] if case in cases else []:
            if "errors" in row:
                groups.setdefault(config + more, []).extend(row["errors"])
    return table(["", "peaks", *NEAR], [[name, *_near(errors)] for name, errors in groups.items()])


def _near(errors):
    """Cells of a table: how many there are, how many are near, the worst."""
    near = [sum(abs(error) <= limit for error in errors) for limit in (0, 0.001, 0.01)]
    return [len(errors), *near, f"{max(errors, key=abs):+.4%}" if any(errors) else "0"]


def against_tables(found):
    """The table of predictions against torch's allocator."""
    lines, rows = [], [row for part in found.values() for row in part["found"]]
    for mode, name in NAMES.items():
        errors = [max(row["errors"], key=abs) for row in rows if row["mode"] == mode]
        if errors:
            lines.append([name, *_near(errors)])
    return {"networks": table(["", "networks", *NEAR], lines)}
