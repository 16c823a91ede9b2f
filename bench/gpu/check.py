"""What `check` does: that a GPU computes what the CPU does, and that the programs run on it."""

import shutil
import subprocess

import torch
import torch.distributed as dist

from alexnet2gpu.model.device import gpus, has_triton
from alexnet2gpu.ranks.link import all_gather
from alexnet2gpu.ranks.store import store
from bench.gpu import arithmetic, equality, programs, same_images
from bench.gpu.cases import DRY
from bench.gpu.items import Item, holds, noted


def versions():
    """Of all that takes part; where a driver is too old for torch's CUDA, this is where to see it."""
    found = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()),
        "nccl": nccl(),
        "triton": triton(),
        "driver": driver(),
        "devices": [torch.cuda.get_device_name(number) for number in range(gpus())],
        "memory": [torch.cuda.get_device_properties(n).total_memory for n in range(gpus())],
        "usable": gpus(),
    }
    if not DRY:
        return holds({"Triton's kernels can be built": has_triton()}, found)
    if found["driver"]:
        old = f"the driver, {found['driver']}, is new enough for torch's CUDA {torch.version.cuda}"
        return holds({old: False}, found)
    return noted(found, "needs a GPU: this is a dry run")


def nccl():
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except (AttributeError, RuntimeError):
        return None


def triton():
    try:
        import triton

        return triton.__version__
    except ImportError:
        return None


def driver():
    """The driver's version, if nvidia-smi is there to say it."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    return (done.stdout.split() or [None])[0]


def nccl_alone():
    """NCCL with one rank: it starts, adds and gathers."""
    if DRY:
        return noted({}, "needs a GPU")
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", store=store(), rank=0, world_size=1, device_id=torch.device("cuda", 0))
    try:
        x = torch.arange(6.0, device="cuda")
        gathered = torch.empty_like(x)
        all_gather(gathered, x)
        dist.all_reduce(x)
        torch.cuda.synchronize()
        expected = list(range(6))
        good = {"all_reduce": x.tolist() == expected, "all_gather": gathered.tolist() == expected}
    finally:
        dist.destroy_process_group()
    return holds(good, {"nccl": nccl()})


def items():
    kernels = [
        Item(f"kernels: {kind}, {str(dtype).removeprefix('torch.')}", arithmetic.kernel, (kind, dtype))
        for kind in arithmetic.CASES
        for dtype in arithmetic.LIMITS
    ]
    graphs = [
        Item(f"step as a graph, {precision}", arithmetic.graph, (precision,), 1, 60, 1, dry=False)
        for precision in arithmetic.GRAPH_LIMITS
    ]
    return [
        Item("versions", versions),
        *kernels,
        Item("fused update", arithmetic.update),
        Item("step, GPU against CPU", arithmetic.whole_step, seconds=90),
        Item("images, GPU against CPU", same_images.same),
        *graphs,
        Item("NCCL, one rank", nccl_alone, gpus=1, dry=False, seconds=45),
        *equality.items(),
        Item("programs: stopped, resumed, evaluated", programs.stop_and_resume, seconds=120),
        Item("programs: a loss that is no number", programs.not_a_number, seconds=60),
        Item("programs: out of memory", programs.out_of_memory, gpus=1, dry=False, seconds=60),
    ]
