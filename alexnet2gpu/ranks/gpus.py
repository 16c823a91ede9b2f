"""Which GPU each rank has, which backend follows from it, and what lies between two GPUs.

Ranks tell each other their host and their GPU's UUID, since each may see other GPUs than the next, under
other numbers: a launcher that gives every rank a GPU of its own calls each of them cuda:0.

    the members of a group have              backend of the group
    a GPU each, all different                NCCL
    GPUs of which some are the same          gloo, since NCCL refuses that; NCCL if it is 2.30 or later and
                                             NCCL_MULTI_RANK_GPU_ENABLE=1 says that it may
    no GPUs                                  gloo
"""

import ctypes
import os
import socket
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from alexnet2gpu.model.device import gpus

SHARING = "NCCL_MULTI_RANK_GPU_ENABLE"
READ, NVLINK = 0, 2  # nvmlGpuP2PCapsIndex_t of nvml.h


class Seat(NamedTuple):
    """Where a rank computes."""

    host: str
    uuid: str  # of its GPU; empty on the CPU
    name: str  # of its GPU; cpu

    @property
    def gpu(self) -> tuple[str, str]:
        """What tells its GPU from all others."""
        return self.host, self.uuid


def seat_of(device: torch.device) -> Seat:
    """This rank's."""
    if device.type == "cpu":
        return Seat(socket.gethostname(), "", "cpu")
    found = torch.cuda.get_device_properties(device)
    return Seat(socket.gethostname(), str(found.uuid), found.name)


def choose_device(local_rank: int) -> torch.device:
    """By turns over the GPUs that this rank sees; the CPU if it sees none."""
    there = gpus()
    return torch.device("cuda", local_rank % there) if there else torch.device("cpu")


def backend_of(seats: Sequence[Seat], nccl_may_share: bool = False) -> str:
    """Of a group of ranks in these seats."""
    on_gpus = all(seat.uuid for seat in seats)
    apart = len({seat.gpu for seat in seats}) == len(seats)
    return "nccl" if on_gpus and (apart or nccl_may_share) else "gloo"


def nccl_may_share() -> bool:
    """Whether the user lets NCCL put several ranks on one GPU, and this NCCL can."""
    return os.environ.get(SHARING) == "1" and gpus() > 0 and torch.cuda.nccl.version() >= (2, 30)


def check_seats(seats: Sequence[Seat]) -> None:
    """Raises: ValueError if some ranks have GPUs and others none."""
    without = [f"rank {rank} on {seat.host}" for rank, seat in enumerate(seats) if not seat.uuid]
    if without and len(without) < len(seats):
        way_out = "mend its driver, or set CUDA_VISIBLE_DEVICES= on all machines to train on CPUs"
        raise ValueError(f"{without[0]} has no GPU to compute on, other ranks have: {way_out}")


def between(one: Seat, other: Seat) -> str:
    """How tensors get from one GPU to another, as far as the driver's NVML says."""
    if one.host != other.host:
        return "over the network"
    if one.uuid == other.uuid:
        return "within a GPU that they share"
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if _p2p(nvml, NVLINK, one.uuid, other.uuid):
            return "over NVLink"
        return "over PCIe, P2P" if _p2p(nvml, READ, one.uuid, other.uuid) else "through the host's memory"
    except (OSError, AttributeError):
        return "by a way that NVML does not tell"


def _p2p(nvml, index, *uuids):
    """nvmlDeviceGetP2PStatus is 0 where the two can."""
    handles, status = [ctypes.c_void_p(), ctypes.c_void_p()], ctypes.c_int(-1)
    failed = nvml.nvmlInit_v2()
    for uuid, handle in zip(uuids, handles):
        failed = failed or nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle))
    if failed or nvml.nvmlDeviceGetP2PStatus(*handles, index, ctypes.byref(status)):
        raise OSError("NVML does not say")
    return status.value == 0


def said_of(seats: Sequence[Seat], backends: Sequence[str]) -> str:
    """All ranks' devices, and how groups with these backends talk, in words: "2 ranks on 2 x NVIDIA H100 80GB
    HBM3, nccl over NVLink"."""
    devices = {seat.gpu: seat.name for seat in seats}  # a CPU for each host
    counts = Counter(devices.values()).items()
    ranks = f"{len(seats)} rank{'s' * (len(seats) > 1)}"
    places = [f"{count} x {name}" if count > 1 else name for name, count in counts]
    words = f"{ranks} on {' and '.join(places)}"
    if backends:
        words += ", " + " and ".join(dict.fromkeys(backends))
        words += f" {between(*seats[:2])}" * bool(seats[0].uuid)
    return words
