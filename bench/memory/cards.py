"""The question of 2012 for today's cards: how many images, and how wide a network, a GPU's memory takes.

    python -m bench.memory.cards

Of alexnet.yaml in float32, by what the allocator is predicted to reserve: the largest batch, and at batch 128
the largest factor by which all widths but the classes can grow, in steps of 1/16. Goes to
bench/results/memory-cards.json and into docs/memory.md. A few minutes on any machine, which needs no GPU.
"""

from dataclasses import replace
from functools import partial

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory.plan import Case, largest
from bench.memory.cases import NAMES, PAGE
from bench.results import RESULTS, origin, redraw, table, write_json

CARDS = {"GTX 580, 3 GiB": 3, "8 GiB": 8, "24 GiB": 24, "80 GiB": 80}
MODES = ("single", "split", "ddp")
STEPS = 16  # to a factor of 1


def widened(config: Config, sixteenths: int) -> Config:
    """All layers but the last so much wider."""
    stages, towers = [], config.model.towers
    for stage in config.model.stages:
        layers = {}
        for name, layer in stage.items():
            if hasattr(layer, "out") and stage is not config.model.stages[-1]:
                own = max(1, layer.out * sixteenths // (STEPS * towers))
                layer = replace(layer, out=own * towers)
            layers[name] = layer
        stages.append(layers)
    return replace(config, model=replace(config.model, stages=tuple(stages)))


def cards():
    """Of each card and mode, the largest batch and the largest factor."""
    config, found = load_config("configs/alexnet.yaml"), []
    for card, size in CARDS.items():
        for mode in MODES:
            case, budget = Case(mode, config, 2), size * 2**30
            batch = largest(partial(case.needs, True, budget), budget, case.copies)

            def wider(n, case=case, budget=budget):
                return case._replace(config=widened(config, n)).needs(True, budget, config.train.batch)

            factor = largest(wider, budget)
            found.append({"card": card, "mode": mode, "batch": batch[0], "width": factor[0] / STEPS})
            print(found[-1], flush=True)
    return found


def cards_table(found):
    """A row for each card, with both answers in each mode."""
    lines = []
    for card in CARDS:
        rows = {row["mode"]: row for row in found if row["card"] == card}
        cells = [f"{rows[mode]['batch']:,} / {rows[mode]['width']:.2f}" for mode in MODES]
        lines.append([card, *cells])
    return table(["images / width", *(NAMES[mode] for mode in MODES)], lines)


if __name__ == "__main__":
    results = {**origin(), "found": cards()}
    write_json(RESULTS / "memory-cards.json", results)
    redraw(PAGE, {"cards": cards_table(results["found"])})
