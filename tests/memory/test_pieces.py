"""If these fail, docs/explore.html shows other bytes than launch/memory.py predicts."""

import random

import pytest

from alexnet2gpu.config.load import load_config
from alexnet2gpu.figures.explore import read_page
from alexnet2gpu.memory import explore
from alexnet2gpu.memory.ledger import Moment, Storage
from alexnet2gpu.memory.pieces import Steps, corners, pieces
from alexnet2gpu.memory.plan import Case
from alexnet2gpu.memory.play import Estimate
from bench.results import REPOSITORY

PAGE = REPOSITORY / "docs" / "explore.html"


def worst(step, units):
    """Of every moment, the most that is held: all events one after another."""
    (piece,) = [piece for piece in step if piece.first <= units <= piece.last]
    sizes = [base + slope * units for *_, base, slope in piece.storages]
    begins = {event: number for number, (_, event) in enumerate(piece.moments)}
    held, most = 0, []
    for number, event in enumerate(piece.events):
        if number in begins:
            most.append(held)
        held += sizes[event] if event >= 0 else -sizes[-event - 1]
        most[-1] = max(most[-1], held)
    return [(place, size) for (place, _), size in zip(piece.moments, most)]


@pytest.mark.parametrize("mode, on_gpu", [("single", True), ("split", False)])
def test_a_step_at_any_batch_is_the_one_that_is_played(mode, on_gpu):
    case = Case(mode, load_config("configs/quick.yaml"), 2)

    def step(units):
        return case.with_batch(units * case.parts).predict(on_gpu)

    found = pieces(step, 200)
    assert len(found) < 4 and (found[0].first, found[-1].last) == (1, 200)
    assert [after.first for after in found[1:]] == [before.last + 1 for before in found[:-1]]
    ends = {units for piece in found for units in (piece.first, piece.last)}
    for units in {*ends, *random.Random(1).sample(range(1, 201), 2)}:
        assert worst(found, units) == [(m.place, m.bytes) for m in step(units).moments], units


@pytest.mark.parametrize("mode, batch", [("split", 128), ("ddp", 300)])
def test_the_page_that_is_kept_has_what_is_predicted(mode, batch):
    """On a GPU: of a CPU it depends on its kind and on a C compiler."""
    data, case = read_page(PAGE), Case.on(mode, load_config("configs/alexnet.yaml"), 2)
    on_two = [one for one in data["memory"]["2|float32|none|gpu"] if one["ranks"] == 2]
    (found,) = [one for one in on_two if one["mode"] == mode]
    steps = [Steps(first, last, *data["steps"][number]) for first, last, number in found["pieces"]]
    most = max(size for _, size in worst(steps, batch // found["unit"]))
    assert most == case.with_batch(batch).predict(True).peak


def test_a_limit_of_scratch_memory_is_found_in_a_few_steps():
    """One storage grows, one up to 450 bytes only: at 45 units, of 10 bytes each."""
    played = []

    def step(units):
        played.append(units)
        place = ("forward", "conv1")
        sizes = {"activations": 100 + 7 * units, "scratch": min(10 * units, 450)}
        made = [Storage(size, kind, place, 1) for kind, size in sizes.items()]
        events = [(made[0], True), (made[1], True), (made[1], False)]
        return Estimate({}, {}, [Moment(place, sum(sizes.values()), 2)], events)

    found = pieces(step, 4096)
    assert [(piece.first, piece.last) for piece in found] == [(1, 45), (46, 4096)]
    lines = [[line for *_, base, slope in piece.storages for line in (base, slope)] for piece in found]
    assert lines == [[100, 7, 0, 10], [100, 7, 450, 0]]
    assert len(played) <= 8


def test_corners_of_a_function_are_where_its_lines_meet():
    def function(n):
        return [max(3.0, 0.5 * n), 2.0 * n]

    assert list(corners(function, 100)) == [[1, [3.0, 2.0]], [6, [3.0, 12.0]], [100, [50.0, 200.0]]]


def test_bytes_that_schedule_py_cannot_count_are_left_out():
    def modes(*settings):
        return {one["mode"] for one in explore.sent_of(load_config("configs/quick.yaml", settings))}

    assert modes("memory.regather=true") == {"single", "ddp", "zero1", "fsdp"}
    assert modes() - modes("train.accumulate=4") == {"fsdp"}
