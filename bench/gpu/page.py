"""What the JSON of python -m bench.gpu says, in words and as the table of docs/gpu.md.

python -m bench.gpu.page     draws the table anew, of the results in bench/results
"""

from collections.abc import Iterator

from bench.gpu.items import largest
from bench.results import REPOSITORY, RESULTS, read_json, redraw, table

PAGE = REPOSITORY / "docs" / "gpu.md"
COMMANDS = ("check", "measure", "train")
KINDS = {"one GPU": "1gpu", "two GPUs": "2gpu"}
NOT_RUN = "not run yet"
SHOWN = 4  # figures


def verdict(result: dict) -> str:
    """passed, FAILED or -, and what was found or why not."""
    status = {True: "passed", False: "FAILED", None: "-"}[result["passed"]]
    numbers = [f"{name} {value:.4g}" for name, value in flat(result["figures"])][:SHOWN]
    if result["error"]:
        said = result["figures"].get("said") if result["passed"] is False else None
        return f"{status}: {result['error']}" + f": {said}" * bool(said)
    threshold = f" ({result['threshold']})" if result["passed"] and result["threshold"] else ""
    return f"{status}: {', '.join(numbers) or 'done'}{threshold}"


def flat(figures: dict) -> Iterator[tuple[str, float]]:
    """The numbers among figures, and of the dicts in them."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from ((f"{name}: {inner}", number) for inner, number in flat(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def drawn() -> dict[str, str]:
    """The tables of docs/gpu.md by the names of their marks."""
    found = {}
    for kind, end in KINDS.items():
        found[kind] = {name: read_json(RESULTS / f"{name}-{end}.json") for name in COMMANDS}
    lines = [[name, *(row(found[kind]) or NOT_RUN for kind in KINDS)] for name, row in ROWS.items()]
    return {"results": table(["", *KINDS], lines)}


def of(document, name):
    """The figures of an item; {} if it was not done."""
    return next((item["figures"] for item in document.get("items", []) if item["item"] == name), {})


def device(found):
    documents = [document for document in found.values() if document.get("devices")]
    if not documents:
        return None
    first = documents[0]
    return f"{first['devices'][0]}, torch {first['torch']}, CUDA {first['cuda']}"


def commits(found):
    """Of each command."""
    return ", ".join(f"{name} {found[name]['commit']}" for name in COMMANDS if "commit" in found[name])


def counted(name):
    """Of a command: how many items passed, failed, had nothing to judge."""

    def row(found):
        items = found[name].get("items", [])
        count = {status: sum(item["passed"] is status for item in items) for status in (True, False, None)}
        failed = [item["item"] for item in items if item["passed"] is False]
        said = f"{count[True]} passed, {count[False]} failed, {count[None]} not judged"
        return items and said + (f" ({', '.join(failed)})" if failed else "")

    return row


def furthest(found):
    """Of all modes that are judged."""
    items = [i for i in found["check"].get("items", []) if i["item"].startswith("equal") and i["threshold"]]
    values = [value for item in items for _, value in flat(item["figures"])]
    return f"{largest(values):.1e}" if values else None


def step(batch, arithmetic, who="ours"):
    """Milliseconds of a step, and images a second: of the quicker way, with a graph or without."""

    def row(found):
        together = of(found["measure"], f"speed: batch {batch}")
        ms = (together or of(found["measure"], f"speed: batch {batch}, {arithmetic}")).get("ms", {})
        name = f"{who}, {arithmetic}"
        known = [ms[each] for each in (name, f"{name}, graph") if each in ms]
        return f"{min(known):.2f} ms, {1000 * batch / min(known):,.0f} images/s" if known else None

    return row


def split(found):
    ms = of(found["measure"], "ranks: split, batch 128").get("bfloat16", {}).get("ms")
    return f"{ms:.2f} ms" if ms else None


def predicted(found):
    """Of the peak, and which share of what was measured that is."""
    errors = of(found["measure"], "memory: single, 128, float32").get("errors")
    return f"{errors[0]:+.2%}" if errors else None


def top1(views):
    def row(found):
        error = (
            of(found["train"], f"evaluate: {views} view{'s' * (views > 1)}")
            .get("one-device", {})
            .get("top1_error")
        )
        return f"{error:.1%}" if error is not None else None

    return row


ROWS = {
    "machine": device,
    "commit": commits,
    "check": counted("check"),
    "largest difference of a mode from one device, float64": furthest,
    "measure": counted("measure"),
    "a step, batch 128, TF32": step(128, "TF32"),
    "a step, batch 128, bfloat16": step(128, "bfloat16"),
    "the ordinary port, batch 128, TF32": step(128, "TF32", "port"),
    "torchvision with the same treatment, batch 128, bfloat16": step(128, "bfloat16", "torchvision"),
    "a step, batch 1024, bfloat16": step(1024, "bfloat16"),
    "split over two ranks, batch 128, bfloat16": split,
    "memory predicted, of that measured, batch 128, float32": predicted,
    "train": counted("train"),
    "top-1 error, centre": top1(1),
    "ten views": top1(10),
}

if __name__ == "__main__":
    redraw(PAGE, drawn())
