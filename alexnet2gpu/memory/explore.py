"""What a page to play with knows of a network: in every mode and at every batch, the storages of a step, the
bytes that a rank sends, and a step's time; as plain data, of which a page only adds up."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.network import trace
from alexnet2gpu.memory.pieces import Steps, corners, pieces
from alexnet2gpu.memory.plan import Case, modes_of
from alexnet2gpu.memory.predict import SPLIT
from alexnet2gpu.memory.tables import place_texts
from alexnet2gpu.model.profile import Profile
from alexnet2gpu.ranks.cost import SENT, Line, Lines
from alexnet2gpu.ranks.machine import cores
from alexnet2gpu.ranks.plans import CLOSE, Setting, element_of, proviso
from alexnet2gpu.ranks.schedule import step_of

LAST = 4096  # images of all ranks together
RANKS = 1, 2, 4, 8
TOWERS = 2, 4  # beside the network's own, if it has several
PRECISIONS = "float32", "bfloat16"
DEVICES = "cpu", "gpu"
LINKS = {  # of GPUs, by what is reached of them
    "PCIe 2.0, 6 GB/s": Line(6e9, 20e-6),
    "PCIe 4.0, 25 GB/s": Line(25e9, 10e-6),
    "NVLink of an H100, 400 GB/s": Line(400e9, 5e-6),
    "Ethernet, 10 Gbit/s": Line(1.1e9, 50e-6),
}
SLOWER = {"125 MB/s": 125e6, "25 MB/s": 25e6}  # of CPUs, beside what was measured


def levers(config: Config) -> dict[str, list[str]]:
    """Name -> settings that hold less. Only those that the network can have."""
    stages = list(range(1, (config.model.convolutional or len(config.model.stages)) + 1))
    found = {
        "none": [],
        "4 passes over parts of the batch": ["train.accumulate=4"],
        "computing convolutions twice": [f"memory.recompute={stages}"],
    }
    return found | ({"gathering halves twice": ["memory.regather=true"]} if config.model.towers > 1 else {})


class Tables:
    """Things that are named by their place in a list."""

    def __init__(self):
        self.of: dict[str, dict] = {name: {} for name in ("kinds", "places", "steps")}

    def number(self, name: str, thing: Any) -> int:
        """Of a thing, which is entered if it is new."""
        return self.of[name].setdefault(thing, len(self.of[name]))

    def pieces(self, found: Sequence[Steps]) -> list[list[int]]:
        """first, last, and the number of what is made and ended."""
        return [[steps.first, steps.last, self.number("steps", self._step(steps))] for steps in found]

    def _step(self, steps):
        storages = [(self.number("kinds", kind), base, slope) for kind, _, base, slope in steps.storages]
        moments = [(self.number("places", place), at) for place, at in steps.moments]
        return tuple(storages), tuple(steps.events), tuple(moments)


def explored(
    config_of: Callable[[list[str]], Config], name: str, profiles: Sequence[Profile], done=iter
) -> dict[str, Any]:
    """All of it. `config_of`: settings -> the network's config; `profiles`: of machines, which may know
    nothing of this network; `done`: around what takes long."""
    own, tables, configs = config_of([]), Tables(), {}
    others = TOWERS if own.model.towers > 1 else ()
    for towers in dict.fromkeys([own.model.towers, *others]):
        for precision, (lever, settings) in product(PRECISIONS, levers(own).items()):
            if lever == "none" or towers == own.model.towers:
                changes = [f"model.towers={towers}", f"train.precision={precision}", *settings]
                with suppress(ValueError):  # a layer that does not divide over so many towers
                    configs[towers, precision, lever] = config_of(changes)
    views = list(product(configs, DEVICES))
    memory, sent, times, networks = {}, {}, {}, {}
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        played = pool.map(steps_of, [configs[view] for view, _ in views], [on == "gpu" for _, on in views])
        for ((towers, precision, lever), device), steps in zip(done(views), played):
            memory[f"{towers}|{precision}|{lever}|{device}"] = [
                {"mode": mode, "ranks": ranks, "unit": unit, "pieces": tables.pieces(found)}
                for mode, ranks, unit, found in steps
            ]
    for (towers, precision, lever), config in configs.items():
        sent[f"{towers}|{precision}|{lever}"] = list(sent_of(config))
        if lever == "none":
            networks[towers] = [[row.stage, row.name, list(row.gives)] for row in trace(config.model)]
            for profile in profiles:
                if of := times_of(config, profile):
                    times[f"{towers}|{precision}|{'cpu' if profile.cores else 'gpu'}"] = of
    named = {table: list(things) for table, things in tables.of.items()}
    named["places"] = place_texts(named["places"])
    return {
        "name": name, "last": LAST, "close": CLOSE, "batch": own.train.batch, "networks": networks, **named,
        "memory": memory, "sent": sent, "times": times,
    }  # fmt: skip


def cases(config: Config) -> Iterator[Case]:
    """Every mode on every number of ranks that it can have."""
    for mode, ranks in product(modes_of(config), RANKS):
        case = Case.on(mode, config, ranks)
        try:
            if case.number == ranks and not case.with_batch(case.parts).mistake:
                yield case
        except ValueError:
            continue


def steps_of(config: Config, on_gpu: bool) -> list[tuple[str, int, int, list[Steps]]]:
    """Of every case mode, ranks, the images of a unit, and its steps."""
    found, of_mode = [], {}
    for case in cases(config):
        play = partial(_played, case, on_gpu)
        steps = pieces(play, LAST // case.parts, of_mode.get(case.mode, ()))  # perhaps as on fewer ranks
        of_mode[case.mode] = steps
        found.append((case.mode, case.number, case.parts, steps))
    return found


def _played(case, on_gpu, units):
    return case.with_batch(units * case.parts).predict(on_gpu)


def sent_of(config: Config) -> Iterator[dict[str, Any]]:
    """Of every case of which schedule.py knows it, what a rank sends: [kind, after which layer, bytes of no
    image, bytes an image]."""
    for case in filter(counted, cases(config)):
        none, one = (_sends(case, images) for images in (0, case.parts))
        lines = [
            [kind, layer, base, (size - base) / case.parts]
            for (kind, layer, base), (*_, size) in zip(none, one)
        ]
        yield {"mode": case.mode, "ranks": case.number, "of": lines}


def counted(case: Case) -> bool:
    """Whether schedule.py knows what is sent: not what is gathered once more, exchanges or FSDP's weights."""
    config = case.config
    if case.mode == "fsdp":
        return config.train.accumulate == 1 and not config.memory.recompute
    return case.mode not in SPLIT or not config.memory.regather


def _sends(case, images):
    layer, found = "", []
    for op in step_of(case.mode, case.config.model, case.number, images, element_of(case.config)):
        if op.kind in SENT:
            found.append((op.kind, layer, op.amount))
        elif op.of:
            layer = op.of
    return found


def times_of(config: Config, profile: Profile) -> dict[str, Any] | None:
    """Of every case, at every batch and over every link, seconds of a step: low, middle, high. They lie on
    lines between the batches that are given. None if the profile is of another network or precision."""
    try:
        profile.check(config.model)
    except ValueError:
        return None
    if profile.precision != config.train.precision:
        return None
    links, found = links_of(profile), []
    for case in cases(config):
        lines, element = map(Lines, links.values()), element_of(config)
        settings = [Setting(config.model, profile, line, case.number, element) for line in lines]
        knots = list(corners(partial(_seconds, settings, case), LAST // case.parts))
        found.append({"mode": case.mode, "ranks": case.number, "unit": case.parts, "knots": knots})
    source, *_ = profile.source.split(";")
    threads = profile.threads if profile.cores else None  # of a rank on a CPU
    machine = {"device": profile.device, "source": source, "proviso": proviso(profile), "threads": threads}
    return {**machine, "links": list(links), "of": found}


def _seconds(settings, case, units):
    plans = [setting.plan(case.mode, units * case.parts) for setting in settings]
    return [second for plan in plans for second in plan.seconds]


def links_of(profile: Profile) -> dict[str, Line]:
    """Those of the machine, by name."""
    if not profile.links:
        return LINKS
    own = Line(**profile.links["inside"])
    measured = f"between processes, {own.bandwidth / 1e9:.1f} GB/s"
    return {measured: own, **{name: replace(own, bandwidth=rate) for name, rate in SLOWER.items()}}
