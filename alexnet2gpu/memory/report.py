"""What was measured on all ranks: a table side by side, and memory.json.

memory.json: {"unit": "bytes", "batch": images a step, "precision": ..., "device": name, "ranks":
[...]}, each rank with its number, replica and towers, "measured": bytes by category (measure.py
says what each is), and "sent_per_image": for each stage, the bytes that this rank sent to others
in the exchange after it, forward and backward, for each image of its own share.
"""

from collections.abc import Sequence

MIB = 2**20


def table(ranks: Sequence[dict]) -> str:
    """The `ranks` of memory.json as text, in MiB, a column for each; nothing if no step was
    measured."""
    if not ranks:
        return ""
    head = [f"rank {rank['rank']}" for rank in ranks]
    towers = ["towers " + "+".join(map(str, rank["towers"])) for rank in ranks]
    width = max(len(cell) for cell in [*head, *towers])
    lines = [_line("memory, MiB", head, width), _line("", towers, width)]
    for category in ranks[0]["measured"]:
        lines.append(
            _line(
                category.replace("_", " "),
                [f"{rank['measured'][category] / MIB:.2f}" for rank in ranks],
                width,
            )
        )
    sent = [
        sum(direction for stage in rank["sent_per_image"] for direction in stage.values())
        for rank in ranks
    ]
    if any(sent):
        lines.append(
            _line("sent, KiB an image", [f"{bytes_ / 1024:.1f}" for bytes_ in sent], width)
        )
    return "\n".join(["", *lines, ""])


def _line(name, cells, width):
    return f"{name:<20}" + "".join(f"  {cell:>{width}}" for cell in cells)
