"""If these fail, ranks take a GPU that is not theirs or that cannot compute, or talk over a backend that
refuses them; or the first line of a run says so of others."""

import re
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from alexnet2gpu.model import device
from alexnet2gpu.ranks import gpus, groups, link
from alexnet2gpu.ranks.gpus import Seat, backend_of, between, check_seats, choose_device, said_of
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.torchrun import grid_of

ROOT = Path(__file__).resolve().parents[2]
H100 = "NVIDIA H100 80GB HBM3"
CPU = Seat("a", "", "cpu")


def seats(*places):
    """Of GPUs written as "host/uuid"."""
    return [Seat(*place.split("/"), H100) for place in places]


def has(monkeypatch, count, available=True):
    """A machine on which torch counts so many GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)


def test_a_driver_that_is_too_old_leaves_the_cpu(monkeypatch):
    """Torch then counts a GPU, by NVML, on which it cannot compute."""
    has(monkeypatch, 1, available=False)
    assert device.gpus() == 0
    assert choose_device(0) == torch.device("cpu")
    with Ranks(grid_of(2, "single", {})) as ranks:
        assert ranks.device.type == "cpu" and ranks.said() == "1 rank on cpu"


def test_whether_there_is_a_gpu_is_asked_in_one_place():
    """Two ways to ask give two answers, as with that driver."""
    asks = re.compile(r"cuda\.(is_available|device_count)\(")
    found = [
        str(file.relative_to(ROOT))
        for folder in ("alexnet2gpu", "launch", "bench")
        for file in (ROOT / folder).rglob("*.py")
        if asks.search(file.read_text())
    ]
    assert found == ["alexnet2gpu/model/device.py"]


@pytest.mark.parametrize("local_rank, gpus, expected", [(1, 2, 1), (1, 8, 1), (3, 2, 1), (1, 1, 0)])
def test_ranks_of_a_machine_take_its_gpus_by_turns(monkeypatch, local_rank, gpus, expected):
    has(monkeypatch, gpus)
    assert choose_device(local_rank) == torch.device("cuda", expected)


@pytest.mark.parametrize(
    "places, may_share, expected",
    [
        (["a/1", "a/2"], False, "nccl"),
        (["a/1", "b/1"], False, "nccl"),
        (["a/1", "a/1"], False, "gloo"),
        (["a/1", "a/2", "a/1"], False, "gloo"),
        (["a/1", "a/1"], True, "nccl"),
        (["a/", "a/"], True, "gloo"),
    ],
)
def test_nccl_wherever_the_members_have_different_gpus(places, may_share, expected):
    assert backend_of(seats(*places), may_share) == expected


@pytest.mark.parametrize(
    "said, version, expected",
    [("1", (2, 30, 7), True), ("1", (2, 28, 9), False), ("0", (2, 30, 7), False), (None, (2, 31), False)],
)
def test_nccl_shares_a_gpu_if_it_can_and_is_told_to(monkeypatch, said, version, expected):
    has(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: version)
    monkeypatch.delenv(gpus.SHARING, raising=False)
    if said is not None:
        monkeypatch.setenv(gpus.SHARING, said)
    assert gpus.nccl_may_share() is expected


def backends(places, mode):
    """On a rank in the seat that `places` has for it, its device being cuda:0 for itself: the backends of its
    groups, all of which are gloo's in truth."""
    with pytest.MonkeyPatch.context() as patch:
        asked, new_group = [], dist.new_group
        grid = grid_of(2, mode)
        patch.setattr(groups, "seat_of", lambda device: seats(*places)[grid.rank])
        patch.setattr(
            dist, "new_group", lambda members, timeout, backend: new_group(members, timeout, "gloo")
        )
        with Ranks(grid) as ranks:
            asked.extend(ranks.backends)
            return asked, ranks.said(), ranks.gather(grid.rank)


@pytest.mark.parametrize(
    "places, mode, expected, said",
    [
        (["a/1", "a/2"], "split", ["nccl"], "2 ranks on 2 x NVIDIA H100 80GB HBM3, nccl over NVLink"),
        (["a/1", "a/1"], "split", ["gloo"], f"2 ranks on {H100}, gloo within a GPU that they share"),
        (["a/1", "a/1", "a/2", "a/2"], "grid", ["gloo", "nccl"], None),
        (["a/1", "a/2", "a/1", "a/2"], "grid", ["nccl", "gloo"], None),
    ],
    ids=[
        "a launcher that shows each rank its own",
        "one GPU",
        "4 ranks on 2, replicas apart",
        "towers apart",
    ],
)
def test_each_group_has_the_backend_of_its_members(on_ranks, places, mode, expected, said):
    found = on_ranks(backends, len(places), places, mode)
    assert [asked for asked, _, _ in found] == [expected] * len(places)
    assert [everyone for _, _, everyone in found] == [list(range(len(places)))] * len(places)
    words = found[0][1].replace("by a way that NVML does not tell", "over NVLink")
    assert said is None or words == said


def test_a_rank_without_a_gpu_among_others_is_a_mistake():
    check_seats(seats("a/1", "b/1"))
    check_seats([CPU, CPU])
    with pytest.raises(ValueError, match="rank 1 on a has no GPU to compute on, other ranks have: mend its"):
        check_seats([*seats("b/1"), CPU])


class Nvml:
    """libnvidia-ml, for two GPUs; `can`: indices of what they can."""

    def __init__(self, can):
        self.can = can

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):
        handle._obj.value = {b"GPU-1": 1, b"GPU-2": 2}[uuid]
        return 0

    def nvmlDeviceGetP2PStatus(self, one, other, index, status):
        assert (one.value, other.value) == (1, 2)
        status._obj.value = 0 if index in self.can else 3
        return 0


@pytest.mark.parametrize(
    "can, expected",
    [({0, 1, 2}, "over NVLink"), ({0, 1}, "over PCIe, P2P"), (set(), "through the host's memory")],
)
def test_what_lies_between_two_gpus_is_the_drivers_word(monkeypatch, can, expected):
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: Nvml(can))
    assert between(*seats("a/1", "a/2")) == expected


def test_without_nvml_it_is_not_known_and_machines_have_a_network(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(gpus.ctypes, "CDLL", missing)
    assert between(*seats("a/1", "a/2")) == "by a way that NVML does not tell"
    assert between(*seats("a/1", "b/1")) == "over the network"


@pytest.mark.parametrize(
    "of, backends, expected",
    [
        ([CPU], [], "1 rank on cpu"),
        ([CPU, CPU], ["gloo"], "2 ranks on cpu, gloo"),
        ([CPU, CPU._replace(host="b")], ["gloo"], "2 ranks on 2 x cpu, gloo"),
        (seats("a/1", "b/1"), ["nccl"], f"2 ranks on 2 x {H100}, nccl over the network"),
        (
            [*seats("a/1"), Seat("a", "1", H100), *seats("b/1"), Seat("b", "2", "NVIDIA A100")],
            ["gloo", "nccl"],
            f"4 ranks on 2 x {H100} and NVIDIA A100, gloo and nccl within a GPU that they share",
        ),
    ],
)
def test_the_words_of_a_run(of, backends, expected):
    assert said_of(of, backends) == expected


def collectives(shape):
    """On a rank: whether a step's two collectives warn, and what they give of its rank's number."""
    with warnings.catch_warnings(record=True) as said, Ranks(grid_of(2, "split")) as ranks:
        warnings.simplefilter("always")
        own = torch.full(shape, float(ranks.grid.rank))
        together, total = torch.empty(2 * shape[0], *shape[1:]), torch.empty(shape)
        link.all_gather(together, own, group=ranks.split_group, async_op=True).wait()
        link.reduce_scatter(total, together, group=ranks.split_group, async_op=True).wait()
    return [str(each.message) for each in said if "deprecated" in str(each.message)], together, total


def test_the_collectives_have_names_that_torch_does_not_warn_of(on_ranks):
    """From 2.11 to 2.15: those of GPUs, which the CPU's messages do without."""
    shape = (3, 2, 5)
    expected = torch.cat([torch.zeros(shape), torch.ones(shape)])
    for rank, (said, together, total) in enumerate(on_ranks(collectives, 2, shape)):
        assert said == [] and torch.equal(together, expected)
        assert torch.equal(total, torch.full(shape, 2.0 * rank))
