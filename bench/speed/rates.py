"""What a processor can do at best: products and convolutions of the sizes of this network."""

import time

import torch


def rates(precision, device):
    """The best rates, in FLOP/s, of a matrix product and of convolutions 2 to 5, forward."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(2048, 2048, dtype=dtype, device=device)
    found = {"matmul": 2 * 2048**3 / best(lambda: a @ a, device)}
    for name, (reads, gives, kernel, side) in {
        "conv2": (48, 128, 5, 27),
        "conv3": (256, 192, 3, 13),
        "conv4": (192, 192, 3, 13),
        "conv5": (192, 128, 3, 13),
    }.items():
        conv = torch.nn.Conv2d(reads, gives, kernel, padding=kernel // 2).to(device, dtype)
        x = torch.randn(128, reads, side, side, dtype=dtype, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            seconds = best(lambda: conv(x), device)
        found[name] = 2 * 128 * side**2 * gives * reads * kernel**2 / seconds
    return found


def best(function, device):
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
