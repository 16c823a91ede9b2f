"""If these fail, a rank takes another's place, a wrong command line goes unnoticed, or a rank
whose work is done may abort at its exit."""

import contextlib
import gc
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import Pool, train

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.step import train_step
from alexnet2gpu.ranks.assemble import assemble
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.torchrun import grid_of

PATIENCE = 5  # seconds that a thread may take to end


def environment(rank, world, local_world=None):
    local_world = local_world or world
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank % local_world),
        "LOCAL_WORLD_SIZE": str(local_world),
        "MASTER_ADDR": "127.0.0.1",
    }


@pytest.mark.parametrize(
    "towers, mode, world, expected",
    [
        (2, "split", 2, [([0], 0), ([1], 0)]),
        (4, "split", 2, [([0, 1], 0), ([2, 3], 0)]),
        (4, "split", 4, [([0], 0), ([1], 0), ([2], 0), ([3], 0)]),
        (2, "ddp", 3, [([0, 1], 0), ([0, 1], 1), ([0, 1], 2)]),
        (1, "ddp", 2, [([0], 0), ([0], 1)]),
        (2, "grid", 4, [([0], 0), ([1], 0), ([0], 1), ([1], 1)]),
        (2, "grid", 2, [([0], 0), ([1], 0)]),
        (4, "grid", 8, [([t], r) for r in (0, 1) for t in range(4)]),
        (4, "hybrid", 2, [([0, 1], 0), ([2, 3], 0)]),
    ],
)
def test_who_holds_what(towers, mode, world, expected):
    grids = [grid_of(towers, mode, environment(rank, world)) for rank in range(world)]
    assert [(list(grid.towers), grid.replica) for grid in grids] == expected
    assert {grid.replicas for grid in grids} == {1 + max(replica for _, replica in expected)}


def test_without_torchrun_one_device_holds_all():
    grid = grid_of(2, "single", {})
    assert (list(grid.towers), grid.replica, grid.replicas, grid.world) == ([0, 1], 0, 1, 1)


@pytest.mark.parametrize(
    "towers, mode, world, complaint",
    [
        (2, "single", 2, "2 processes but no mode: add --split-model, --ddp, both, or --hybrid"),
        (
            2,
            "split",
            None,
            "--split-model on 1 process: 2 towers divide over 2: torchrun --standalone "
            "--nproc_per_node=2 launch/train.py --split-model",
        ),
        (2, "split", 3, "--split-model on 3 processes: 2 towers divide over 2"),
        (2, "split", 4, "--nproc_per_node=2 launch/train.py --split-model; for replicas add --ddp"),
        (4, "split", 3, "4 towers divide over 2 or 4"),
        (2, "grid", 3, "--split-model --ddp on 3 processes: 2 towers need 2 a replica"),
        (2, "ddp", None, "--ddp needs several processes: torchrun --standalone --nproc_per_node=2"),
        (2, "hybrid", 4, "--nproc_per_node=2 launch/train.py --hybrid"),
        (1, "hybrid", 2, "--hybrid cannot split a network of 1 tower"),
        (1, "split", 2, "--split-model cannot split a network of 1 tower"),
    ],
)
def test_a_wrong_number_of_processes_is_an_error(towers, mode, world, complaint):
    with pytest.raises(ValueError) as error:
        grid_of(towers, mode, {} if world is None else environment(0, world))
    assert complaint in str(error.value)


def test_the_command_that_would_do_is_of_the_program_that_was_started():
    with pytest.raises(ValueError, match="nproc_per_node=2 launch/evaluate.py CKPT --hybrid"):
        grid_of(2, "hybrid", {}, "launch/evaluate.py CKPT")


@pytest.mark.parametrize("odd, complaint", [({"RANK": "abc"}, "RANK is 'abc', no number"), ({}, "not where")])
def test_ranks_that_torchrun_has_not_started_are_an_error(odd, complaint):
    given = environment(0, 2) | odd
    if not odd:
        del given["MASTER_ADDR"]
    with pytest.raises(ValueError, match=f"{complaint}.*torchrun"):
        grid_of(2, "split", given)


def threads_left():
    """The names of this process's threads of gloo, once they are none or time is up."""
    deadline = time.monotonic() + PATIENCE
    while True:
        names = []
        for file in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):  # it has just ended
                names.append(file.read_text().strip())
        left = sorted(name for name in names if "gloo" in name)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


def step(config, ranks):
    """A training step on random images."""
    parts = assemble(config, ranks)
    images, labels = torch.randn(4, *config.model.input), torch.zeros(4, dtype=torch.int64)
    train_step(parts.replicated, parts.optimizer, images, labels)


def after_a_step(regather):
    gc.disable()  # only the ranks' own end collects
    config = load_config("configs/quick.yaml", [f"memory.regather={regather}"])
    with Ranks(grid_of(2, "grid"), 1) as ranks:
        step(config, ranks)
    return threads_left()


def after_a_run(folder):
    gc.disable()
    train("--split-model", "--ddp", "--set", "train.max_steps=2", "--out", folder)
    return threads_left()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads from /proc")
@pytest.mark.slow
def test_no_thread_outlives_the_ranks(tmp_path):
    """A thread of gloo that is still there at a rank's exit aborts it now and then. On processes
    of its own: a rank that has failed in another test may have left some."""
    pool = Pool()
    try:
        assert pool(after_a_step, 4, "true") == [[]] * 4
        assert pool(after_a_run, 4, tmp_path / "run") == [[]] * 4
    finally:
        pool.close()
