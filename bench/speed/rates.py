"""Best rates of a processor: products and convolutions of the sizes of a network."""

import torch

from alexnet2gpu.config.layers import Conv
from alexnet2gpu.config.network import trace
from bench.turns import clocked


def rates(config, device):
    """The best rates, in FLOP/s, of a matrix product and of convolutions of stride 1, forward, batch 128."""
    dtype = torch.bfloat16 if config.train.precision == "bfloat16" else torch.float32
    a = torch.randn(2048, 2048, dtype=dtype, device=device)
    found = {"matmul": 2 * 2048**3 / best(lambda: a @ a, device)}
    for row in trace(config.model):
        if isinstance(row.layer, Conv) and row.layer.stride == 1:
            channels, kernel = (row.reads[0], row.gives[0]), row.layer.kernel
            conv = torch.nn.Conv2d(*channels, kernel, padding=row.layer.pad).to(device, dtype)
            x = torch.randn(128, *row.reads, dtype=dtype, device=device)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                found[row.name] = 2 * 128 * row.multiply_adds / best(lambda: conv(x), device)
    return found


def best(work, device):
    """The seconds of the quickest of six."""
    seconds = clocked(work, device.type == "cuda")
    return min(seconds() for _ in range(6))
