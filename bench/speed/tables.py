"""The tables of docs/speed.md, from what bench.speed and bench.speed.exchange have measured."""

import statistics

from bench.results import REPOSITORY, table

PAGE = REPOSITORY / "docs" / "speed.md"
STEPS = "20 steps", "100", "200"


def tables(parts, exchange=None):
    """By the names of their marks: of the parts in speed-cpu.json, and of exchange-cpu.json."""
    kinds = {"norms": norms, "images": images, "curves": curves, "photographs": curves}
    drawn = {name: kinds.get(name, race)(part) for name, part in parts.items()}
    return drawn | ({"exchange": slow_links(exchange)} if exchange else {})


def race(part):
    """Of contenders that took turns; what the model does of what the processor can."""
    found, against = part["found"], part["against"]
    against = against if against in found else next(iter(found))  # if it could not start
    base = found[against]["images_per_second"]
    several = any(f["exchange"] or f["sent"] for f in found.values())
    parts = ["forward", "backward", "update", *["exchange"] * several]
    head = ["", "images/s", "of the rounds", f"to {against}", "forward, ms", *parts[1:]]
    lines, rates = [], []
    for name, f in found.items():
        speed, rounds = f["images_per_second"], f["rounds"]
        cells = [_of(speed), f"{_of(min(rounds))}-{_of(max(rounds))}", f"{speed / base:.2f}"]
        cells += [_ms(f[part]) if f[part] else "-" for part in parts]
        cells += [f"{f['sent'] / 1e6:.0f}" if f["sent"] else "-"] * several
        lines.append([name, *cells, f"{f['peak'] / 2**20:.0f}"])
        if "best_rate" in f:
            best, share = f["best_rate"] / 1e9, f["model_rate"] / f["best_rate"]
            rates.append(
                f"- {name}: {f['model_rate'] / 1e9:.0f} GFLOP/s, {share:.0%} of the best rate of a "
                f"convolution or a product of matrices, {best:.0f}"
            )
    drawn = table([*head, *["MB sent"] * several, "most in memory, MiB"], lines)
    return "\n".join([drawn, *[""] * bool(rates), *rates])


def _of(speed):
    """Images a second."""
    return f"{speed:.1f}" if speed < 1000 else f"{speed:,.0f}"


def _ms(seconds):
    """Milliseconds: whole ones, but below ten, as on a GPU, hundredths too."""
    ms = 1000 * seconds
    return f"{ms:.2f}" if round(ms, 2) < 10 else f"{ms:.0f}"


def norms(part):
    totals = part["found"]["totals"]
    slowest = totals["F.local_response_norm"]
    lines = [[name, _ms(s), f"{slowest / s:.1f}"] for name, s in totals.items()]
    layers = [layer for name, layer in part["found"].items() if name != "totals"]
    errors = [max(f[kind] for f in layers) for kind in ("error", "error, no compiler")]
    head = ["both across maps, of both towers, batch 128", "ms", "times as fast"]
    return table(head, lines) + (
        "\n\nLargest error, relative to the largest value, from float64: "
        f"{errors[0]:.1e}, without a compiler {errors[1]:.1e}."
    )


def images(part):
    found = part["found"]
    ours = found["ours"]
    lines = [[name, f"{60000 / s:,.0f}", f"{s / ours:.1f}"] for name, s in found.items()]
    return table(["", "images/s", "ours is so many times as fast"], lines)


def curves(part):
    lines = []
    for name, far in part["found"].items():
        precision, way = name.split(", ", 1)
        lines.append([f"{way}, {precision}", *(f"{each:.1e}" for each in far)])
    return table(["largest difference of a loss from the port's, up to", *STEPS], lines)


def slow_links(exchange):
    """Milliseconds of a step over several links, each way of the exchange in a column."""
    lines = {}
    for name, seconds in exchange["seconds"].items():
        link, way = name.split(", ", 1)
        lines.setdefault(link, {})[f"{way}, ms"] = _ms(statistics.median(seconds))
    ways = next(iter(lines.values()))
    return table(["", *ways], [[link, *cells.values()] for link, cells in lines.items()])
