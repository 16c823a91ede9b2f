"""What was measured on all ranks: a table side by side, and memory.json.

    {"unit": "bytes", "batch": images of a step, "precision": ..., "ranks": [
      {"rank": 0, "replica": 0, "towers": [0], "device": "cpu",
       "measured": {category: bytes, ...},                    categories as in measure.py
       "sent_per_image": [{"forward": bytes, "backward": bytes}, ...]}, ...]}

`sent_per_image` has an entry for each stage's end: what this rank sent to the other ranks of its
replica, for each image of the replica's share. It is empty where nothing is exchanged.
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
