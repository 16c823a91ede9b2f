"""If these fail, python -m bench.gpu takes a failure for a success, loses what it has found, or ends before
its end; or tables show a GPU's milliseconds as 2 or 0.

Items of the fast tests are functions of Python's library, so that their processes need not import torch.
"""

import json
import math
import operator
import os
import time

import pytest
import torch

from bench.gpu import __main__ as gpu
from bench.gpu import bars, items, page
from bench.gpu.items import Item, at_most, carry_out, holds, largest, one_line
from bench.processes import Failed, Pool, TooLate
from bench.results import rewrite
from bench.speed import tables


@pytest.fixture
def pool():
    pool = Pool()
    yield pool
    pool.close()


def done(items, pool, seconds=60, gpus=1):
    return [result for result, _ in carry_out(items, pool, gpus, time.monotonic() + seconds)]


GOOD = Item("good", at_most, (1, {"error": 0.5}))


@pytest.mark.parametrize(
    "bad, said",
    [
        (Item("hangs", time.sleep, (1000,), seconds=2), "after 2 s only ranks [] of 1 have answered"),
        (Item("dies", os._exit, (3,)), "the process died"),
        (Item("raises", operator.truediv, (1, 0)), "ZeroDivisionError: division by zero"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.slow
def test_an_item_that_fails_is_recorded_and_the_next_is_done(bad, said, pool):
    first, second = done([bad, GOOD], pool)
    assert first["passed"] is False and said in first["error"] and "\n" not in first["error"]
    assert first["seconds"] < 20
    assert second["passed"] and second["error"] is None and second["figures"] == {"error": 0.5}


def test_what_was_only_tried_may_fail(pool):
    (tried,) = done([Item("tried", operator.truediv, (1, 0), may_fail=True)], pool)
    assert tried["passed"] is None and "ZeroDivisionError" in tried["error"]


@pytest.mark.slow
def test_no_item_goes_on_after_the_time_for_all(pool, monkeypatch):
    """One is cut short and one not begun: neither has failed."""
    monkeypatch.setattr(items, "LEAST", 1)
    start = time.monotonic()
    cut, late = done([Item("cut", time.sleep, (1000,)), GOOD], pool, seconds=2)
    assert time.monotonic() - start < 30
    assert cut["passed"] is None and cut["error"].startswith("left out: no time, ended after")
    assert late["passed"] is None and late["error"] == "left out: no time"


def test_what_a_machine_lacks_is_said(pool):
    graph, links = (Item("graph", at_most, gpus=1, dry=False), Item("links", at_most, gpus=2))
    for gpus, said in {0: ["needs a GPU", None], 1: [None, "needs 2 GPUs"], 2: [None, None]}.items():
        assert [item.needs(gpus) for item in (graph, links)] == said
    (lacking,) = done([graph], pool, gpus=0)
    assert lacking["passed"] is None and lacking["error"] == "needs a GPU" and lacking["figures"] == {}


@pytest.mark.slow
def test_a_process_that_has_died_is_replaced(pool):
    with pytest.raises(Failed):
        pool(os._exit, 2, 0)
    with pytest.raises(TooLate):
        pool(time.sleep, 1, 1000, patience=0.5)
    assert pool(operator.add, 2, 1, 2) == [3, 3]
    (first, _), (second, _) = pool.members
    assert first.pid != second.pid and pool(os.getpid, 2) == [first.pid, second.pid]


def test_no_number_never_passes():
    assert at_most(1, {"a": 1.0, "b": 0})["passed"] is True
    for wrong in (1.1, math.inf, math.nan):
        assert at_most(1, {"a": wrong, "b": 0.1})["passed"] is False
    assert math.isnan(largest([1.0, math.nan, 2.0])) and largest([1, 3, 2]) == 3
    found = holds({"one": True, "two": False})
    assert found["passed"] is False and found["error"] == "not so: two"
    assert "error" not in holds({"one": True})


def test_an_error_in_one_line_is_its_last():
    said = 'rank 1 of 2:\nTraceback (most recent call last):\n  File "a.py", line 1\n    x\nValueError: no'
    assert one_line(Failed(said)) == "rank 1 of 2: ValueError: no"


FAST = {"port, TF32": 12.0, "ours, TF32": 9.0, "ours, TF32, graph": 4.4, "torchvision, TF32, graph": 4.5}
FAST |= {"ours, bfloat16, graph": 2.9, "torchvision, bfloat16": 3.0}
BOTH = "TF32", "bfloat16"


@pytest.mark.parametrize(
    "change, missed",
    [
        ({}, []),
        ({"port, TF32": 8.0}, ["TF32, times as fast as the port", "bfloat16, times as fast as the port"]),
        ({"torchvision, bfloat16": 2.8}, ["bfloat16, times as fast as torchvision"]),
        ({"ours, TF32, graph": 4.51, "torchvision, TF32, graph": 5}, ["TF32, ms"]),
        ({"ours, bfloat16, graph": 2.95}, ["bfloat16, ms"]),
    ],
)
def test_the_bars(change, missed):
    found = bars.bars(FAST | change, 128, "NVIDIA H100 80GB HBM3", BOTH)
    assert [bar.name for bar in found if not bar.cleared] == missed
    assert len(found) == 6


def test_bars_in_milliseconds_are_of_an_h100_and_ratios_of_any_gpu():
    names = [bar.name for bar in bars.bars(FAST, 128, "NVIDIA L4", BOTH)]
    assert len(names) == 4 and all("times as fast" in name for name in names)
    assert bars.bars(FAST, 128, "cpu", BOTH) == []
    slow, fast = ({"ours, bfloat16": ms, "torchvision, bfloat16": 40.0} for ms in (31.1, 31.0))
    found = [bars.bars(ms, 1024, "NVIDIA H100", ("bfloat16",))[-1] for ms in (slow, fast)]
    assert [bar.cleared for bar in found] == [False, True]


def test_without_our_own_time_every_bar_is_missed():
    """As when the GPU had no room for it."""
    others = {name: ms for name, ms in FAST.items() if not name.startswith("ours")}
    found = bars.judged({"ms": others}, 128, "NVIDIA H100", BOTH)
    assert found["passed"] is False and "nothing measured" in found["error"]
    assert bars.judged({"ms": others}, 128, "cpu", BOTH)["passed"] is None


def test_a_graph_that_cannot_be_recorded_is_a_failure_however_fast_steps_are():
    lost = {"ours, TF32, graph": "RuntimeError: captured", "port, TF32, graph": "RuntimeError: other"}
    found = bars.judged({"ms": FAST, "left out": lost}, 128, "NVIDIA H100", BOTH)
    assert found["passed"] is False and found["error"] == "missed: ours, TF32, graph: RuntimeError: captured"


@pytest.mark.parametrize(
    "seconds, shown", [(0.00241, "2.41"), (0.00004, "0.04"), (0.0126, "13"), (1.2, "1200")]
)
def test_milliseconds_below_ten_have_two_decimals(seconds, shown):
    times = {"forward": seconds, "backward": seconds, "update": seconds, "exchange": seconds}
    ours = {"images_per_second": 1.0, "rounds": [1.0], "sent": None, "peak": 2**20, **times}
    assert tables.race({"found": {"ours": ours}, "against": "ours"}).count(f"| {shown} ") == 4
    norms = {"totals": {"F.local_response_norm": seconds}}
    norms["norm1"] = {"error": 0.0, "error, no compiler": 0.0}
    assert f"| {shown} |" in tables.norms({"found": norms})
    assert f"| {shown} |" in tables.slow_links({"seconds": {"a link, as it is": [seconds]}})


def test_what_would_be_too_large_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LARGEST", 2000)
    archive = tmp_path / "a.zip"
    said = gpu.put(archive, {"small": b"a", "large": os.urandom(4000), "other": b"b"})
    assert said == ["small", "large: left out, too large", "other"]
    assert archive.stat().st_size < 2000


def test_the_table_of_docs_gpu_is_that_of_the_results():
    """To draw it anew: python -m bench.gpu.page"""
    text = page.PAGE.read_text()
    assert rewrite(text, page.drawn()) == text


def test_rows_of_the_page_are_found_in_results(tmp_path, monkeypatch):
    """Of a run with one GPU, in which the names of items are those that `measure` gives them."""
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    names = {item.name for item in gpu.measure.items()}
    assert {"speed: batch 128", "speed: batch 1024, bfloat16"} <= names
    item = {
        "item": "speed: batch 128",
        "passed": True,
        "threshold": "",
        "error": None,
        "figures": {"ms": FAST},
    }
    (tmp_path / "measure-1gpu.json").write_text(json.dumps({"items": [item]}))
    drawn = page.drawn()["results"]
    assert "| a step, batch 128, TF32 | 4.40 ms, 29,091 images/s | not run yet |" in drawn
    assert "1 passed, 0 failed, 0 not judged" in drawn


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "measure", "train"])
def test_a_dry_run_ends_well(command, tmp_path, capfd):
    """On the CPU: no item fails, and those that say nothing need a GPU."""
    assert gpu.main([command, "--out", str(tmp_path)]) == 0, capfd.readouterr().out
    found = json.loads((tmp_path / f"{command}-cpu.json").read_text())
    assert found["torch"] == torch.__version__ and found["gpus"] == 0
    items = found["items"]
    assert not [item["item"] for item in items if "left out" in (item["error"] or "")]
    assert all(item["error"] is None or item["error"].startswith("needs") for item in items)
    assert all(item["figures"] for item in items if item["error"] is None)
    assert len(list(tmp_path.iterdir())) <= 2


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["check", "--only", "verions"], "--only verions: no item begins so, of: versions, kernels"),
        (["check", "--seconds", "nan"], "--seconds nan: should be more than 0"),
        (["check", "--seconds", "0"], "--seconds 0.0: should be more than 0"),
        (["check", "photographs"], "photographs: only train takes photographs"),
        (["train", "no/such"], "no/such: there is no train/ in it, and it is no pack"),
        (["check", "--out", __file__], "--out "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_one_line_and_nothing_is_written(arguments, said, capsys, tmp_path):
    out = [] if "--out" in arguments else ["--out", str(tmp_path)]
    with pytest.raises(SystemExit) as exit_:
        gpu.main([*arguments, *out])
    assert exit_.value.code == 2 and said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
