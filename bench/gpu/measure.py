"""What `measure` does: speed and its ceilings, memory beside its prediction, links."""

from bench.gpu import check, layers, links, loader, memory, race
from bench.gpu.items import Item

LAYERS = [(precision, batch) for batch in (128, 32, 1024) for precision in ("float32", "bfloat16")]


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
        *(Item("layers, {}, batch {}".format(*case), layers.layers, case) for case in LAYERS),
        Item("loader", loader.speed),
        *memory.recorded(),
    ]
