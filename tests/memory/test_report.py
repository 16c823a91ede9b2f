"""If these fail, launch/memory.py or the table of a run does not say what was found."""

import json
import math
import pickle

import pytest
import torch
from conftest import REPOSITORY, program, ranks_of, train

from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory import any_mode, plan, report, tables
from alexnet2gpu.memory.predict import predict

STEPS = ["--set", "train.max_steps=2", "--set", "data.name=synthetic"]
QUICK = "configs/quick.yaml"


def memory(*arguments):
    program("memory").main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_budget_ends_between_two_batches(capsys):
    """The largest batch fits, as predicted, and the next does not."""
    memory("--config", QUICK, "--budget", "64MiB", "--modes", "single", "grid")
    _, head, *lines = (line.split() for line in capsys.readouterr().out.splitlines())
    peak = head.index("peak")
    for mode, step in (("single", 1), ("grid", 2)):
        fits, next_one = [line for line in lines if line[0] == mode]
        assert int(next_one[2]) - int(fits[2]) == step
        assert float(fits[peak]) <= 64 < float(next_one[peak]) + 0.05
        assert fits[-1] == "fits" and next_one[-3:] == ["does", "not", "fit"]


@pytest.mark.slow
def test_a_table_fits_a_terminal(capsys):
    """What is the same in all rows stands above; the widest names and numbers, and what was measured."""
    memory("--config", "configs/alexnet.yaml", "--batches", 128, 4096, "--modes", "split")
    memory(
        "--config",
        "configs/alexnet.yaml",
        "--batches",
        128,
        "--modes",
        "split",
        "--precision",
        "float32",
        "float64",
    )
    memory("--config", QUICK, "--modes", "single", "--measure", "--set", "train.batch=8")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "alexnet, float32, MiB a rank, on the CPU" and "split" in lines[2]
    assert max(map(len, lines)) <= 80 and len(lines) == 11
    assert "precision" not in lines[1] and "precision" in lines[5] and "measured" in lines[9]


def test_a_file_that_cannot_be_written_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "memory.json").mkdir()
    with pytest.raises(SystemExit) as exit_:
        memory("--config", QUICK, "--modes", "single", "--out", tmp_path)
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and said.strip().startswith("error: [Errno 21]"), said
    assert said.strip().count("\n") == 0 and "memory.json" in said


@pytest.mark.slow
def test_a_budget_may_be_too_small_for_one_image(capsys):
    """Then the only line of the mode says so, and other modes have their own."""
    memory("--config", QUICK, "--budget", "5MiB", "--modes", "single", "split")
    modes = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(mode[0], mode[2], mode[-1]) for mode in modes[:1]] == [("single", "1", "fit")]
    assert [mode[0] for mode in modes] == ["single", "split", "split"]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--budget", "much"], "--budget much: should be a number and KiB, MiB, GiB, KB, MB or GB"),
        (["--budget", "0GiB"], "--budget 0GiB: should be a number and KiB, MiB, GiB, KB, MB or GB"),
        (["--budget", "3GiB", "--batches", "8"], "finds the batches, so leave out --batches"),
        (["--modes", "split", "--ranks", "3"], "--ranks 3: 2 towers divide over 2"),
        (["--modes", "ddp", "--batches", "7"], "batch 7 does not divide by 2 replicas"),
        (["--modes", "split", "--config", "configs/lenet.yaml"], "1 tower cannot be split"),
        (["--modes", "ddp", "--replicas", "1"], "has 2 replicas or more, --replicas is 1"),
        (["--replicas", "0"], "should be whole numbers, at least 1"),
        (["--batches", "0"], "should be whole numbers, at least 1"),
        (["--device", "cuda", "--measure"], "cannot be measured here, only predicted"),
        (["--out", "README.md"], "File exists: 'README.md'"),
        (["--set", "memory.recompute=[6]"], "lists stages, and model.stages has 5"),
    ],
)
def test_mistakes_end_in_one_line(arguments, complaint, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as end:
        memory(*arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and complaint in error and error.count("\n") == 1


def test_figures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    memory("--config", QUICK, "--modes", "split", "--out", tmp_path)
    for name in ("bars.png", "timeline-split.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    (row,) = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert row["predicted"]["peak"] == sum(row["at_worst"].values())


def test_a_batch_that_does_not_divide_says_so_in_its_row(capsys):
    memory("--config", QUICK, "--modes", "single", "ddp", "--batches", "7")
    *_, single, ddp = capsys.readouterr().out.splitlines()
    assert single.split()[:3] == ["single", "1", "7"]
    assert ddp.split()[:3] == ["ddp", "2", "7"] and ddp.endswith("does not divide by 2 replicas")


def test_a_batch_is_divided_by_updates_of_fully_connected_stages_too():
    config = load_config("configs/quick.yaml", ["train.batch=14", "optim.fc_updates=7"])
    hybrid = plan.Case("hybrid", config, 2)
    assert hybrid.parts == 14 and not hybrid.mistake
    assert hybrid.with_batch(12).mistake == "does not divide by 7 updates (optim.fc_updates)"


def test_layers_are_left_as_json_and_csv(tmp_path, capsys):
    """Every place adds up, the worst of them to the peak; and two configs stand side by side."""
    where = "--modes", "split", "--beside", "configs/lenet.yaml", "--modes", "single"
    memory("--config", QUICK, *where, "--layers", "--out", tmp_path)
    *shown, _ = capsys.readouterr().out.splitlines()  # the last is where figures are
    assert any("backward conv2" in line for line in shown) and max(map(len, shown)) <= 80
    rows = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert [row["config"] for row in rows] == ["quick", "lenet"]
    for row in rows:
        assert max(layer["bytes"] for layer in row["layers"]) == row["predicted"]["peak"]
        for layer in row["layers"]:
            parts = [size for kind, size in layer.items() if kind not in ("place", "bytes")]
            assert sum(parts) == layer["bytes"]
    head, *lines = (tmp_path / "layers.csv").read_text().splitlines()
    assert head.split(",")[:6] == ["config", "mode", "images", "precision", "pass", "module"]
    assert len(lines) == sum(len(row["layers"]) for row in rows)


@pytest.mark.parametrize("size, merged", [(1, 0), (300, 2), (10**9, 8)])
def test_layers_fit_a_terminal(size, merged):
    """However many kinds are merged, the largest sizes stay and each line adds up."""
    kinds = ["scratch", "temporary", "narrow weights", "gathered weights", "gradients", "buckets"]
    kinds += ["activations", "gradients of activations"]
    layers = []
    for n in range(2):
        parts = {kind: (n + 1) * number * size * 2**20 for number, kind in enumerate(kinds, 1)}
        parts["weights"] = 7 * 2**20
        layers.append({"place": ("backward", f"towers.{n}.map_norm2"), "bytes": sum(parts.values()), **parts})
    row = {"config": "quick", "mode": "fsdp", "batch": 8, "precision": "float32", "layers": layers}
    shown = tables.layers_text(row)
    assert max(map(len, shown.splitlines())) <= 80, shown
    *_, first, second = shown.splitlines()
    assert "everywhere: weights 7.0" in shown and first.startswith("backward map_norm2 (0)")
    for line in (first, second):
        *parts, total = map(float, line.split()[3:])
        assert sum(parts) + 7 == pytest.approx(total)


def test_a_step_is_left_for_torchs_viewer(tmp_path):
    """Allocations and their ends, each with its kind and place as frames; all ends have a beginning."""
    memory("--config", QUICK, "--modes", "single", "--out", tmp_path)
    events = pickle.loads((tmp_path / "step-single.pickle").read_bytes())["device_traces"][0]
    held, most = {}, 0
    for event in events:
        if event["action"] == "alloc":
            assert event["addr"] not in held and len(event["frames"]) == 2
            held[event["addr"]] = event["size"]
            most = max(most, sum(held.values()))
        else:
            assert held.pop(event["addr"]) == event["size"]
    row = json.loads((tmp_path / "memory.json").read_text())["rows"][0]
    assert most == row["predicted"]["peak"]


@pytest.mark.parametrize("budget, step, expected", [(100, 1, [33, 34]), (100, 4, [32, 36]), (0, 1, [1])])
def test_the_largest_that_fits_is_found_in_few_steps(budget, step, expected):
    asked = []

    def peak(batch):
        asked.append(batch)
        return 3 * batch

    assert plan.largest(peak, budget, step) == expected
    assert len(asked) <= 6


def test_the_residual_of_a_gpu_is_shared_by_its_ranks():
    """Two ranks of GPU A have reserved 100 and 300 bytes, of which the driver counts 1,000."""
    assert report._residual(1000, "A", [("A", 100), ("A", 300), ("B", 5000)]) == 300


def test_it_starts_its_own_ranks(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        memory("--config", QUICK)
    assert "run it with python, not torchrun" in capsys.readouterr().err


def out_of_memory_on_rank_1(mode, config, ranks):
    """In the place of any_mode.third_step: rank 0 waits for rank 1, which has run out of memory."""
    if ranks.grid.rank == 1:
        raise torch.OutOfMemoryError
    ranks.wait()


def trial_out_of_memory(mode, config, limit):
    any_mode.third_step = out_of_memory_on_rank_1
    return on_rank(mode, config, limit)


on_rank = any_mode.step_on_rank


@pytest.mark.slow
def test_a_rank_out_of_memory_ends_the_trial_of_all(monkeypatch):
    """And it is a line of the table, though other ranks were waiting for the one."""
    monkeypatch.setattr(any_mode, "step_on_rank", trial_out_of_memory)
    config = load_config(QUICK)
    assert any_mode.measure("split", config, 2, None) == []
    row = {"config": "quick", **tables.row("split", 2, config, predict("split", config, 2, False), [])}
    assert "too much" in tables.comparison([row], 2**40)
    assert "does not fit" in tables.comparison([row], 2**40)


def test_the_comparison_shows_the_worst_rank_and_what_a_gpu_reserved():
    predicted = dict.fromkeys(["weights", "gradients", "momentum", "buckets", "batch"], 0)
    predicted |= {"saved_activations": 0, "peak": 3 * 2**20}
    measured = [{"peak": size * 2**20, "reserved": 8 * 2**20} for size in (3, 4)]
    row = {"config": "quick", "mode": "split", "ranks": 2, "batch": 2, "precision": "float32"}
    row |= {
        "predicted": predicted,
        "worst": ("backward", "towers.0.conv2"),
        "measured": measured,
        "errors": [0, -0.25],
    }
    head, line = (line.split() for line in tables.comparison([row], 2**21).splitlines())
    cells = dict(zip(head, line))
    assert (cells["peak"], cells["measured"], cells["error"]) == ("3.0", "4.0", "-25.00%")
    assert cells["reserved"] == "8.0" and line[-4:] == ["conv2,", "does", "not", "fit"]


def test_the_table_shows_all_ranks_side_by_side(on_ranks, tmp_path):
    on_ranks(train, 2, "--split-model", *STEPS, "--out", tmp_path / "split")
    lines = report.table(ranks_of(tmp_path / "split")).strip().splitlines()
    assert lines[0].split() == ["memory,", "MiB", "rank", "0", "rank", "1"]
    rows = {line[:20].strip(): line[20:].split() for line in lines[2:]}
    assert len(rows["weights"]) == 2 and rows["weights"][0] == rows["weights"][1]
    assert {"weights", "gradients", "momentum", "batch", "saved activations", "peak"} <= set(rows)
    assert rows["peak"] == rows["peak, as predicted"] and math.isfinite(float(rows["peak"][0]))
