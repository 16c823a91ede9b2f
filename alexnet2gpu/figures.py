"""Every plot, as PNG files; they need matplotlib, the extra `plots`.

    memory    stacked bars of each mode at its worst moment; a step's timeline, layer by layer
"""

from pathlib import Path


def memory(folder: Path, rows: list, config, replicas: int, on_gpu: bool) -> list[str]:
    return []
