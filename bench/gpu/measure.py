"""What `measure` does: speed and its ceilings, memory beside its prediction, links."""

from bench.gpu import check, layers, links, loader, memory, race
from bench.gpu.items import Item


def items():
    """The most wanted first: what there is no time for is left out."""
    return [
        Item("versions", check.versions),
        Item("ceilings", layers.ceilings),
        *race.items(),
        *links.items(),
        Item("kernels of a step, float32", layers.profile, ("float32",), gpus=1, dry=False),
        Item("kernels of a step, bfloat16", layers.profile, ("bfloat16",), gpus=1, dry=False),
        *memory.items(),
        Item("layers, float32", layers.layers, ("float32",)),
        Item("layers, bfloat16", layers.layers, ("bfloat16",)),
        Item("loader", loader.speed),
        *memory.recorded(),
    ]
