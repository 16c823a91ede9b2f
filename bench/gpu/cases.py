"""What items work on: alexnet.yaml and random images where there is a GPU; without one, in a dry run, the
small network of quick.yaml and a few images."""

from collections.abc import Callable

import torch

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.device import gpus
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.optim import SGD2012, set_rates
from alexnet2gpu.model.precision import ready, weight_dtype
from alexnet2gpu.ranks.machine import cores
from bench.turns import clocked

DRY = gpus() == 0
DEVICE = torch.device("cpu" if DRY else "cuda")
CPU = torch.device("cpu")
SMALL = 4  # images of a dry run
NO_DROPOUT = ("model.stages.2.drop6.p=0", "model.stages.3.drop7.p=0")


def size_of(batch):
    """The batch, or that of a dry run."""
    return min(batch, SMALL) if DRY else batch


def config_of(*settings, batch=128, precision="float32", network="alexnet"):
    """The config that items work on; in a dry run always that of quick.yaml."""
    known = [f"train.batch={size_of(batch)}", f"train.precision={precision}", "data.name=synthetic"]
    return load_config(f"configs/{'quick' if DRY else network}.yaml", [*known, *settings])


def alone(config, device=DEVICE):
    """All towers on a device, and the optimizer, at the first epoch's rates."""
    torch.set_num_threads(1 if DRY else cores())
    model = ready(AlexNet(config.model, config.train.seed, memory=config.memory), config.train, device)
    optimizer = SGD2012(model.named_parameters(), config.optim.momentum, config.optim.weight_decay)
    set_rates(optimizer, config.optim.schedule, 1)
    return model, optimizer


def batch_of(config, device=DEVICE, replica=0, replicas=1):
    """Random images, channels last, and labels of a replica: its part of a batch that is the same for all."""
    count, draw = config.train.batch, torch.Generator().manual_seed(0)
    images = 60 * torch.randn(count, *config.model.input, generator=draw)
    (*_, classifier) = config.model.stages[-1].values()
    labels = torch.randint(classifier.out, (count,), generator=draw)
    images, labels = (t.chunk(replicas)[replica] for t in (images, labels))
    images = images.to(weight_dtype(config.train.precision)).contiguous(memory_format=torch.channels_last)
    return images.to(device), labels.to(device)


def milliseconds(work: Callable, rounds: int = 5, about: float = 0.1) -> float:
    """Of one `work`, the median of some rounds; each of as many as take `about` seconds, for a GPU is asked
    for one after another without waiting."""
    work()
    return sorted(timer(work, about)() for _ in range(rounds))[rounds // 2]


def timer(work, about=0.1):
    """A function that gives the milliseconds of `work`, the mean of as many as take `about` seconds."""
    once = clocked(work, not DRY)
    once()
    times = 1 if DRY else max(3, min(200, int(about / max(once(), 1e-6))))
    several = clocked(lambda: [work() for _ in range(times)], not DRY)
    return lambda: 1000 * several() / times
