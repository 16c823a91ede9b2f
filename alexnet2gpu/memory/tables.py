"""What launch/memory.py prints and leaves: a row for each mode and batch, predicted and measured, and what is
held from layer to layer."""

from collections.abc import Sequence

from alexnet2gpu.config import text
from alexnet2gpu.config.keys import Config
from alexnet2gpu.memory.play import Estimate
from alexnet2gpu.memory.report import MIB, ON_CUDA, error_of, fullest

COLUMNS = 80
# columns that are left out of a table that is too wide, the first first
OPTIONAL = "images", "momentum", "gradients", "buckets", "saved", "weights"


def row(
    mode: str, number: int, config: Config, expected: Estimate | str, ranks: Sequence[dict] | None
) -> dict:
    """A line of launch/memory.py's table, of a mode on a `number` of ranks: what is `expected`, or why it
    cannot be, and what was measured on the `ranks`, if it was; on none if a GPU's memory did not suffice."""
    entry = {"mode": mode, "ranks": number, "batch": config.train.batch, "precision": config.train.precision}
    if isinstance(expected, str):
        return entry | {"mistake": expected}
    worst = expected.worst
    entry |= {"predicted": expected.bytes, "worst": worst.place, "at_worst": worst.parts}
    if ranks is not None:
        entry["measured"] = [rank["measured"] for rank in ranks]
        pairs = [(rank.get("predicted", expected.bytes), rank["measured"]) for rank in ranks]
        entry["errors"] = [error_of(*pair) for pair in pairs]
        entry["device"] = ranks[0]["device"] if ranks else "cuda, out of memory"
    return entry


def comparison(rows: Sequence[dict], budget: int | None = None) -> str:
    """Lines of launch/memory.py as text: modes and batches, predicted and measured, in MiB a rank. Measured
    is the rank that held most; with a `budget`, whether it fits, measured if it was. What is the same in all
    is for `heading`; of what is wider than a terminal, OPTIONAL columns are left out."""
    lines = [_compared(row, budget) for row in rows]
    head = list(dict.fromkeys(name for line in lines for name in line))
    head.append(head.pop(head.index("worst in")))
    empty = [name for name in head if {line.get(name, "") for line in lines} <= {"", "0.0"}]
    head = [name for name in head if name not in (*empty, *_same(rows))]
    for spare in (None, *OPTIONAL):
        head = [name for name in head if name != spare]
        cells = [[line.get(name, "") for name in head] for line in lines]
        words = [head.index(name) for name in ("config", "mode", "precision", "worst in") if name in head]
        shown = text.table([head, *cells], words, " ")
        if max(map(len, shown.splitlines())) <= COLUMNS:
            break
    return shown


def heading(rows: Sequence[dict], on_gpu: bool) -> str:
    """What is true of all rows of a `comparison`."""
    same = "".join(f"{rows[0][name]}, " for name in _same(rows))
    return f"{same}MiB a rank, on {'a GPU' if on_gpu else 'the CPU'}"


def _same(rows):
    return [name for name in ("config", "precision") if len({row[name] for row in rows}) == 1]


def _compared(row, budget):
    """The cells of a row by the heads of their columns."""
    ranks, expected = row.get("measured"), row.get("predicted", {})
    most = fullest(ranks) if ranks else {}  # of no ranks: out of memory
    line = {name: str(row[name]) for name in ("config", "mode", "ranks", "batch", "precision")}
    if "mistake" in row:
        return line | {"worst in": row["mistake"]}
    names = {"batch": "images", "saved_activations": "saved"}
    for name in ("weights", "gradients", "momentum", "buckets", "batch", "saved_activations"):
        line[names.get(name, name)] = _mib(expected, name)
    line["peak"] = _mib(expected, "peak")
    if ranks is not None:
        line["measured"] = _mib(most, "peak") or "too much"
        line["error"] = f"{max(row['errors'], key=abs):+.2%}" if row["errors"] else ""
    if "reserved" in expected:
        line["reserved" if ranks is None else "reserved, predicted"] = _mib(expected, "reserved")
    line |= {name: _mib(most, name) for name in ON_CUDA if name in most}
    (line["worst in"],) = place_texts([row["worst"]])
    if budget is not None:
        held = expected if ranks is None else most
        fits = "fits" if held and held.get("reserved", held["peak"]) <= budget else "does not fit"
        line["worst in"] += f", {fits}"
    return line


def layers(expected: Estimate) -> list[dict]:
    """What is held in every place of a step, at its worst there, by kind, in bytes."""
    return [{"place": moment.place, "bytes": moment.bytes, **moment.parts} for moment in expected.moments]


def layers_text(row: dict) -> str:
    """The `layers` of a row as text, in MiB. What is the same in all places stands above; of what is wider
    than a terminal, the smallest kinds are summed up as other."""
    found = row["layers"]
    columns = {kind: [layer.get(kind, 0) for layer in found] for kind in _kinds([row])}
    same = [kind for kind, sizes in columns.items() if len(set(sizes)) == 1]
    lines = [f"{row['config']}, {row['mode']}, batch {row['batch']}, {row['precision']}: MiB in each place"]
    lines.append("everywhere: " + ", ".join(f"{kind} {columns.pop(kind)[0] / MIB:.1f}" for kind in same))
    places = place_texts([layer["place"] for layer in found])
    smallest = sorted(columns, key=lambda kind: max(columns[kind]))
    for count in range(len(smallest) + 1):
        other = smallest[:count]
        kept = {kind: columns[kind] for kind in columns if kind not in other}
        if other:
            kept["other"] = [sum(sizes) for sizes in zip(*map(columns.get, other))]
        shown = _shown(places, {**kept, "in all": [layer["bytes"] for layer in found]})
        if max(map(len, shown.splitlines())) <= COLUMNS:
            break
    lines += [f"other: {', '.join(other)}"] if other else []
    return "\n".join(["", *lines, shown])


def _shown(places, columns):
    """Sizes in MiB below their heads, which have a word a line."""
    heads = [kind.split() for kind in columns]
    tall = max(map(len, heads))
    head = zip(["step"] + [""] * (tall - 1), *([""] * (tall - len(words)) + words for words in heads))
    sizes = ([f"{size / MIB:.1f}" if size else "" for size in column] for column in columns.values())
    return text.table([*head, *zip(places, *sizes)], [0], " ")


def layers_csv(rows: Sequence[dict]) -> str:
    """The `layers` of all rows as CSV, in bytes."""
    kinds, keys = _kinds(rows), ("config", "mode", "batch", "precision")
    lines = [["config", "mode", "images", "precision", "pass", "module", *kinds, "in all"]]
    for row in rows:
        for layer in row.get("layers", ()):
            held = [layer.get(kind, 0) for kind in kinds]
            lines.append([*(row[key] for key in keys), *layer["place"], *held, layer["bytes"]])
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def _kinds(rows):
    found = [kind for row in rows for layer in row.get("layers", ()) for kind in layer]
    return [kind for kind in dict.fromkeys(found) if kind not in ("place", "bytes")]


def place_texts(places: Sequence[Sequence[str]]) -> list[str]:
    """Places of a step (places.py) in words: `backward relu4`, or where there are several towers `backward
    relu4 (1)`."""
    texts, towers = [], {_tower(module) for _, module in places} - {""}
    for passing, module in places:
        layer = ".".join(module.split(".")[2:]) or "tower" if _tower(module) else module or "join"
        tower = f" ({_tower(module)})" if len(towers) > 1 and _tower(module) else ""
        texts.append(passing if passing in ("start", "update") else f"{passing} {layer}{tower}")
    return texts


def _tower(module):
    return module.split(".")[1] if module.startswith("towers.") else ""


def _mib(figures, name):
    return f"{figures[name] / MIB:.1f}" if name in figures else ""
