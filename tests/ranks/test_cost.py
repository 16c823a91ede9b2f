"""If these fail, the time of a step on paper is not what its formulas, or other people's machines, say."""

import json
import math
from dataclasses import replace

import pytest
from conftest import REPOSITORY, program

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import totals, trace, traffic
from alexnet2gpu.model.profile import Profile, on_lines, read
from alexnet2gpu.ranks import cost, schedule
from alexnet2gpu.ranks.cost import Line, Lines, fit, play, sent
from alexnet2gpu.ranks.plans import Plan, Setting, comparison, element_of, fastest
from alexnet2gpu.ranks.schedule import Op, step_of, unsuited
from bench.modes import published

ALEXNET = load_config("configs/alexnet.yaml").model
CONV, ALL = 2_334_080, 60_965_224  # parameters
X3, X6, X7, LOGITS = 43_264, 9_216, 4_096, 1_000  # widths of joins


def line_of(mode, ranks):
    """Bytes of a step without images, and of each image."""
    fixed = sent(mode, ALEXNET, ranks, 0)
    return fixed, sent(mode, ALEXNET, ranks, 1) - fixed


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_bytes_are_those_of_the_formulas(ranks):
    """Written down here by hand; fsdp gathers twice, and zero1 sends weights besides DDP's sum."""
    f = (ranks - 1) / ranks
    joins = 4 * f * (2 * (X6 + X7 + X7) + LOGITS)
    expected = {
        "single": (0, 0),
        "split": (0, joins + 4 * f * 2 * X3),
        "ddp": (8 * f * ALL, 0),
        "hybrid": (8 * f * CONV, joins),
        "tensor": (8 * f * CONV, joins),
        "fsdp": (12 * f * ALL, 0),
        "zero1": (12 * f * ALL, 0),
        "pipeline": (0, 4 * X6),
    }
    for mode, line in expected.items():
        assert line_of(mode, ranks) == pytest.approx(line), mode
    assert set(schedule.TIMED) == {*expected, "grid"}


def test_bytes_are_those_that_are_printed():
    """In MODES.md and on our pages: two ranks, and eight at batch 128."""
    assert line_of("split", 2) == (0, 244_688)
    assert line_of("ddp", 2)[0] == 243_860_896
    fixed, image = line_of("hybrid", 2)
    assert (round(fixed / 1e6, 2), image) == (9.34, 71_632)
    at = {mode: round(sent(mode, ALEXNET, 8, 128) / 1e6, 1) for mode in ("split", "hybrid", "ddp")}
    assert at == {"split": 54.8, "hybrid": 32.4, "ddp": 426.8}
    assert sent("split", ALEXNET, 2, 7) == 7 * sum(map(sum, traffic(ALEXNET)))  # launch/summary.py's


def test_a_grid_sends_the_exchanges_of_its_replica_and_the_sums_of_its_tower():
    replica, tower = sent("split", ALEXNET, 2, 128 / 4), 8 * 3 / 4 * ALL / 2
    assert sent("grid", ALEXNET, 8, 128) == pytest.approx(replica + tower)


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("element, crossings", [(4, (54, 997, 3274)), (2, (108, 1993, 6548))])
def test_modes_cross_at_the_same_batches_for_any_number_of_ranks(ranks, element, crossings):
    def crossing(one, other):
        none, some = ([sent(mode, ALEXNET, ranks, b, element) for mode in (one, other)] for b in (0, 1))
        return (none[1] - none[0]) / ((some[0] - none[0]) - (some[1] - none[1]))

    pairs = ("split", "hybrid"), ("split", "ddp"), ("hybrid", "ddp")
    assert tuple(round(crossing(*pair)) for pair in pairs) == crossings


def test_with_four_towers_modes_cross_earlier():
    """As docs/modes.md has it: their convolutions have fewer weights."""
    network = load_config("configs/alexnet.yaml", ["model.towers=4"]).model
    for batch, cheaper, other in ((37, "split", "hybrid"), (984, "split", "ddp"), (3274, "hybrid", "ddp")):
        for images, less, more in ((batch, cheaper, other), (batch + 2, other, cheaper)):
            assert sent(less, network, 4, images) < sent(more, network, 4, images)


def test_seconds_lie_on_lines_between_points_and_beyond_them():
    points = [[8, 1.0], [32, 3.0], [128, 15.0]]
    at = {8: 1, 20: 2, 32: 3, 80: 9, 128: 15, 256: 31, 2: 0.5}
    assert {x: on_lines(points, x) for x in at} == pytest.approx(at)
    assert on_lines([[8, 1.0]], 4) == 0.5
    assert on_lines([], 4) == 0
    bent = Profile("", "", 1, 0, "float32", 0, {"x": {"forward": [[8, 1.0], [16, 3.0]]}})
    assert bent.seconds("forward", "x", 1) == 0  # and not less


def layers(seconds):
    """A profile whose layers take so long for one image, forward and backward."""
    known = {name: dict.fromkeys(("forward", "backward"), [[1, s]]) for name, s in seconds.items()}
    return Profile("", "", 1, 0, "float32", 0.0, known)


def test_a_step_of_one_device_has_each_layer_once_forward_and_once_backward():
    """Of both towers, the joins of stages once, the loss, and the update of all parameters; forward and
    backward take other times here."""
    names = [row.name for row in trace(ALEXNET)] * 2 + [f"join{stage}" for stage in range(1, 6)]
    times = {name: 0.5**n for n, name in enumerate(dict.fromkeys([*names, "loss"]))}
    known = {name: {"forward": [[1, s]], "backward": [[1, 3 * s]]} for name, s in times.items()}
    profile = Profile("", "", 1, 0, "float32", 1e-9, known)
    expected = 12 * sum(4 * times[name] for name in names) + 12 * times["loss"] + 1e-9 * ALL
    assert play(step_of("single", ALEXNET, 1, 12), profile, Lines(Line(1.0))) == pytest.approx(expected)


def test_buckets_leave_when_their_last_gradient_is_there():
    """Three layers that go back in 3, 2 and 1 s, with 30, 4 and 4 bytes; a bucket holds 5, a byte takes
    0.1 s. The first leaves at 3 and is under way until 6; the second, of both others, leaves at 6."""
    profile, line = layers({"c": 3.0, "b": 2.0, "a": 1.0}), Lines(Line(10.0))
    back = [Op("backward", 1, name) for name in "cba"]
    gradients = [Op("gradient", size, name, ranks=2, reach=2) for name, size in zip("cba", (30, 4, 4))]
    ops = list(schedule._in_buckets([op for pair in zip(back, gradients) for op in pair], 5, 5))
    assert [(op.kind, op.amount) for op in ops if op.kind == "sum"] == [("sum", 30), ("sum", 8)]
    assert play(ops, profile, line) == pytest.approx(6.8)
    slower = Lines(Line(5.0))  # the first until 9, the second until 10.6
    assert play(ops, profile, slower) == pytest.approx(10.6)
    busy = Lines(Line(10.0, handling=0.1))  # nothing is hidden
    assert play(ops, profile, busy) == pytest.approx(6 + 3.8)
    slow_start = Lines(Line(10.0, alpha=0.5))  # a sum of two ranks is two messages
    assert play(ops, profile, slow_start) == pytest.approx(7 + 0.8 + 1)


def test_ddps_last_bucket_is_of_convolutions_and_cannot_be_hidden():
    """As torch makes them: the first is a tower's fc8, which is more than 1 MB; each fc6 is one by itself."""
    ops = step_of("ddp", ALEXNET, 2, 128)
    sums = [op.amount for op in ops if op.kind == "sum"]
    parts = {row.name: 4 * row.parameters for row in trace(ALEXNET)}
    fc6, fc7, fc8 = (parts[name] for name in ("fc6", "fc7", "fc8"))
    assert sums == [fc8, fc8 + fc7, fc7, fc6, fc6, 4 * CONV]  # of two ranks, as much as there is
    profile, fast = read("h100"), Lines(Line(1e15))
    alone = play(ops, profile, fast)
    line = Lines(Line(200e9))
    assert play(ops, profile, line) == pytest.approx(alone + 4 * CONV / 200e9, rel=1e-5)


def test_fsdp_gathers_the_next_layer_while_it_computes():
    """Two layers of 10 bytes each, 1 s a layer either way, and 1 s a gathering: only the first is waited for,
    and at the end a gradient."""
    profile, line = layers({"a": 1.0, "b": 1.0}), Lines(Line(5.0))
    ways = [("forward", "a"), ("forward", "b"), ("backward", "b"), ("backward", "a")]
    ops = []
    for way, name in ways:
        ops += [Op(way, 1, name)] + [Op("gradient", 10, name, 1, 2, 2)] * (way == "backward")
    ops = list(schedule._in_parts(ops))
    assert [op.kind for op in ops].count("gather") == 4
    assert play(ops, profile, line) == pytest.approx(1 + 4 + 1)
    copies = sum(op.amount for op in ops if op.kind == "copy")
    assert copies == 6 * 10  # each layer twice gathered, once scattered
    assert play(ops, profile, Lines(Line(5.0, copying=0.01))) == pytest.approx(6 + 0.01 * copies, abs=0.11)


def test_exchanges_are_waited_for_and_a_link_between_machines_is_shared():
    profile, inside, between = read("h100"), Line(50e9, 5e-6), Line(10e9, 2e-5)
    split = step_of("split", ALEXNET, 2, 128)
    nothing, some = (play(split, profile, Lines(line)) for line in (Line(1e15), inside))
    assert some - nothing == pytest.approx(244_688 * 128 / 50e9 + 9 * 5e-6, rel=1e-3)  # five there, four back
    apart = play(split, profile, Lines(inside, between, 1))
    assert apart - nothing == pytest.approx(244_688 * 128 / 10e9 + 9 * 2e-5, rel=1e-3)
    lines = Lines(inside, between, 2)  # a replica in each of two machines: sums of two towers pass at once
    line, seconds = lines.slowest(Op("sum", 1e9, ranks=2, reach=4))
    assert (line, seconds) == (between, pytest.approx(2 * 1e9 / 10e9 + 2 * 2e-5))
    assert lines.slowest(Op("exchange", 1e9, ranks=2, reach=2))[0] is inside


def test_on_cpus_ranks_share_cores():
    """Two ranks of two threads on two cores take as long as one after the other, however they divide work."""
    cpu = replace(read("h100"), threads=2, cores=2)
    lines = Lines(Line(1e15))
    single = Setting(ALEXNET, cpu, lines, 1).plan("single", 128).seconds[1]
    assert Setting(ALEXNET, cpu, lines, 2).plan("split", 128).seconds[1] == pytest.approx(single, rel=0.03)
    alone = Setting(ALEXNET, replace(cpu, threads=1), lines, 2).plan("split", 128).seconds[1]
    assert alone == pytest.approx(single / 2, rel=0.03)


def test_a_pipeline_of_equal_ranks_has_the_known_bubble():
    """(m + n - 1) / m of what two ranks need that are never idle."""

    def clock(ops):
        return sum(1.0 for op in ops if op.of in ("conv1", "fc6"))  # a part of the batch, on either rank

    assert cost.MICROBATCHES == 4
    work = 2 * 2 * 4  # of a rank: two towers, two ways
    assert cost.pipeline(ALEXNET, 128, 4, clock) == work * (4 + 2 - 1) / 4


@pytest.mark.parametrize("wrong", [{"bandwidth": 0}, {"bandwidth": math.nan}, {"summing": 0}, {"alpha": -1}])
def test_a_line_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="finite"):
        Line(**{"bandwidth": 1.0, **wrong})


def test_each_collective_has_its_rate():
    line = Line(2.0, alpha=0.25, summing=0.5, gathering=0.25, scattering=0.125)
    kinds = "exchange", "sum", "gather", "scatter"
    seconds = [line.seconds(Op(kind, 6.0, ranks=2)) for kind in kinds]
    assert seconds == [0.25 + 3, 0.5 + 6, 0.25 + 12, 0.25 + 24]
    whole = 8.0  # of which each of four sends 6 on average; on CPUs two hops of a tree
    assert Line(2.0).seconds(Op("broadcast", 6.0, ranks=4)) == whole / 2
    assert Line(2.0, handling=0.1).seconds(Op("broadcast", 6.0, ranks=4)) == 2 * whole / 2


def test_a_line_is_found_again_from_what_it_took():
    found = fit([(size, 3e-5 + size / 2e9) for size in (1e3, 1e5, 1e7)])
    assert (found.alpha, found.bandwidth) == pytest.approx((3e-5, 2e9))
    assert found.spread < 1e-9
    assert fit([(1e6, 0.001)]).bandwidth == pytest.approx(1e9)


def test_published_scaling():
    """K80s within 12 %; where it misses, the model is too fast."""
    for machine, _, theirs, ours, error in published.rows():
        if "K80" in machine:
            assert abs(error) < 0.12, machine
        else:
            assert ours < theirs, machine


def test_what_cannot_be_is_said():
    assert unsuited("split", 2, 3, 12) == "2 towers do not divide over 3 ranks"
    assert unsuited("grid", 2, 2, 12) and not unsuited("grid", 2, 4, 12)
    assert unsuited("ddp", 2, 8, 12) == "batch 12 does not divide by 8"
    assert unsuited("hybrid", 2, 1, 12) and unsuited("pipeline", 2, 4, 12) and unsuited("fsdp", 2, 1, 12)
    assert not any(unsuited(mode, 2, 2, 12) for mode in schedule.TIMED if mode != "grid")


def test_a_network_of_one_stage_has_no_hybrid_and_no_pipeline():
    lenet = load_config("configs/lenet.yaml").model
    setting = Setting(lenet, layers({}), Lines(Line(1e9)), 2)
    for mode in ("hybrid", "pipeline", "tensor"):
        assert "no stages of convolutions apart" in setting.unsuited(mode, 12)
    assert not setting.unsuited("ddp", 12)


def test_the_fastest_is_named_with_those_that_are_as_fast():
    plans = [Plan("split", 2, 8, (1, 2, 3), 0, 5), Plan("ddp", 2, 8, (1, 2.1, 3), 0, 4)]
    assert fastest(plans) == "split (or ddp: too close to tell)"
    assert fastest([plans[0], plans[1]._replace(seconds=(1, 2.2, 3))]) == "split"
    assert comparison(plans, budget=4).endswith("the smallest ddp; the fastest that fits ddp")
    assert comparison(plans, budget=3).endswith("; none is known to fit")
    plans = [plans[0], Plan("tensor", 2, 8, (1, 2.1, 3), 0)]
    assert "tensor*" in comparison(plans) and "* none of launch/train.py's modes" in comparison(plans)


def test_the_h100s_layers_are_those_that_were_measured():
    measured = json.loads((REPOSITORY / "bench/results/measure-1gpu.json").read_text())["items"]
    figures = {item["item"]: item["figures"] for item in measured}
    for name, precision in (("h100", "float32"), ("h100-bfloat16", "bfloat16")):
        profile = read(name)
        profile.check(ALEXNET)
        for batch in (32, 128, 1024):
            for layer, found in figures[f"layers, {precision}, batch {batch}"]["layers"].items():
                both = sum(profile.seconds(way, layer, batch) for way in ("forward", "backward"))
                assert both * 1000 == pytest.approx(found["ms"], rel=1e-3)


def test_a_profile_of_another_network_is_refused(tmp_path):
    profile = read("h100")
    profile.write(tmp_path / "own.json")
    assert read(tmp_path / "own.json").layers == profile.layers
    with pytest.raises(ValueError, match="of another network.*conv1"):
        profile.check(load_config("configs/alexnet.yaml", ["model.towers=4"]).model)
    del profile.layers["join2"]
    with pytest.raises(ValueError, match="without this join2"):
        profile.check(ALEXNET)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": {"conv1": {}}},
        {"layers": {"conv1": {"forward": [[4, 1], [4, 2]], "backward": []}}},
        {"layers": {"conv1": {"forward": [[0, 1]], "backward": []}}},
        {"layers": 3},
        {"update": -1},
        {"spread": [2, 1]},
        {"source": 5},
        {"links": [1]},
        {"speed": 2},
    ],
    ids=str,
)
def test_what_is_no_profile_is_refused(tmp_path, change):
    own = json.loads((REPOSITORY / "configs/profiles/h100.json").read_text()) | change
    (tmp_path / "own.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match="own.json: is no profile"):
        read(tmp_path / "own.json")


def test_a_measured_profile_adds_up_to_the_step():
    """Of the small network: every layer has its points, and all of them together are the step."""
    import torch

    from alexnet2gpu.model import timing

    config = load_config("configs/quick.yaml")
    profile = timing.measure(config, torch.device("cpu"), 2, (2, 4), 1)
    profile.check(config.model)
    for row in trace(config.model):
        known = profile.layers[row.name]
        assert [images for images, _ in known["forward"]] == [2, 4]
        assert all(seconds > 0 for way in ("forward", "backward") for _, seconds in known[way])
    marked = timing.Marked(config, torch.device("cpu"))
    parts = marked.step(*timing._batch(config, 4, torch.device("cpu")))
    (_, _, begin), *_, (_, _, end) = marked.marks
    assert math.isclose(sum(parts.values()), end - begin, rel_tol=1e-9)
    wanted = {(way, row.name) for way in ("forward", "backward") for row in trace(config.model)}
    assert wanted | {("update", ""), ("forward", "loss"), ("backward", "join2")} <= set(parts)
    assert totals(config.model)[0] * profile.update > 0


def test_what_is_measured_is_a_step_without_the_levers_that_cost_time():
    """As launch/plan.py says."""
    import torch

    from alexnet2gpu.model import timing

    marks = []
    for settings in ((), ("memory.recompute=[1,2]",), ("memory.regather=true",)):
        config = load_config("configs/quick.yaml", settings)
        marked = timing.Marked(config, torch.device("cpu"))
        marked.step(*timing._batch(config, 4, torch.device("cpu")))
        marks.append([mark[:2] for mark in marked.marks])
    assert marks[0] == marks[1] == marks[2]


def test_the_interval_has_the_models_own_error_on_both_sides():
    setting = Setting(ALEXNET, replace(read("cpu"), spread=(1.0, 1.0)), Lines(Line(1e9)), 2)
    low, middle, high = setting.plan("split", 128).seconds
    assert (low / middle, high / middle) == pytest.approx((0.88, 1.12))


def test_layers_before_the_first_weights_have_no_way_back():
    import torch

    from alexnet2gpu.model import timing

    stage = (
        "pool1: {type: max_pool, kernel: 4, stride: 4}, flat: flatten, fc2: {type: linear, out: 10, init: 1}"
    )
    config = load_config("configs/quick.yaml", ["model.stages=[{" + stage + "}]"])
    profile = timing.measure(config, torch.device("cpu"), 2, (2, 4), 1)
    assert profile.seconds("backward", "pool1", 4) == 0 < profile.seconds("backward", "fc2", 4)


def test_the_program(tmp_path, capsys):
    link = ["--link", "inside=50GB/s:5us", "between=12.5GB/s:20us", "--per-machine", "1"]
    plan = ["--profile", "h100", "--modes", "hybrid", "pipeline", *link]
    program("plan").main([*plan, "--batches", "64", "65", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "batch 64: the fastest is" in said and "batch 65 does not divide by 2" in said
    assert "without" not in said and "as if every rank's step were one CUDA graph" in said
    program("plan").main([*plan, "--set", "exchange.overlap=true"])
    assert "without exchange.overlap;" in capsys.readouterr().out
    assert (tmp_path / "plan.png").stat().st_size > 5000 and read(tmp_path / "profile.json").cores == 0
    config = load_config("configs/alexnet.yaml")
    assert program("plan").case_of("pipeline", config, 2) is None
    assert program("plan").case_of("split", config, 2).predict(on_gpu=True).bytes["peak"] > 700 * 2**20
    for wrong, word in (
        (["--link", "inside=fast"], "should be as inside=50GB/s:5us"),
        (["--link", "between=1GB/s", "inside=1GB/s"], "--per-machine"),
        ([], "say what joins ranks"),
        (["--link", "inside=1.2.3GB/s"], "should be as inside=50GB/s:5us"),
        (["--link", f"inside=1GB/s:{'9' * 400}s"], "should be as inside=50GB/s:5us"),
        (["--budget", f"{'9' * 400}GiB"], "should be a number and KiB"),
        ([*link, "--out", "/dev/null"], "give another directory"),
        ([*link, "--modes", "zero1", "--set", "optim.fc_updates=2"], "optim.fc_updates is not for them"),
        (["--link", "inside=1GB/s", "inside=2GB/s"], "inside= is there twice"),
        (["--per-machine", "0"], "whole numbers, at least 1"),
    ):
        with pytest.raises(SystemExit):
            program("plan").main(["--profile", "h100", *wrong])
        assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings, bytes_", [([], 4), (["train.precision=bfloat16"], 2), (["exchange.precision=bfloat16"], 2)]
)
def test_activations_travel_as_they_are_computed_or_as_the_exchange_has_them(settings, bytes_):
    assert element_of(load_config("configs/quick.yaml", settings)) == bytes_
