"""Shapes and tables as text."""

from collections.abc import Container, Sequence


def shape_text(shape: Sequence[int]) -> str:
    """(48, 55, 55) as 48x55x55."""
    return "x".join(map(str, shape))


def table(rows: Sequence[Sequence[str]], left: Container[int] = (0,), gap: str = "  ") -> str:
    """Rows of as many cells, in columns as wide as their widest, flush right but for the columns `left`."""
    columns = []
    for n, column in enumerate(zip(*rows)):
        width = max(map(len, column))
        columns.append([cell.ljust(width) if n in left else cell.rjust(width) for cell in column])
    return "\n".join(gap.join(row).rstrip() for row in zip(*columns))
