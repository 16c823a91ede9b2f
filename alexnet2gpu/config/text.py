"""Shapes and tables as text."""

from collections.abc import Container, Sequence


def shape_text(shape: Sequence[int]) -> str:
    """(48, 55, 55) as 48x55x55."""
    return "x".join(map(str, shape))


def table(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> str:
    """Rows of as many cells, in columns as wide as their widest; cells of the columns `left` stand
    at their left end, others at their right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths))
        padded = [c.ljust(width) if n in left else c.rjust(width) for n, (c, width) in cells]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
