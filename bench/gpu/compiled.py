"""What Triton makes of the package's kernels for an H100, compiled without one, at AlexNet's shapes.

    python -m bench.gpu.compiled [SIZE ...]

Draws the table of docs/gpu.md anew, and prints it: registers of a thread, bytes that spill from them to
memory, instructions (SASS) an element that the kernel writes, milliseconds of compiling. Loops that are not
unrolled count once. With SIZEs, how long normalisation takes to compile with windows so wide: where
model/norm/layer.py has its limit from.

The kernels are compiled as their launchers would have it: with tensors on the meta device, launches are
recorded.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.data import prepare_kernel
from alexnet2gpu.model import conv_kernels, pool_kernels, update_kernel
from alexnet2gpu.model.norm import triton_kernels
from bench.gpu.page import PAGE
from bench.results import redraw, table

TARGET, WARPS, BATCH = GPUTarget("cuda", 90, 32), 4, 128
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.uint8: "*u8", torch.int64: "*i64"}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
LRN, MAP_NORM = NormRule(True, 5, 1e-4 / 5, 0.75, 2), NormRule(False, 5, 1e-3 / 25, 0.75, 1)
HEAD = ["kernel", "type", "registers", "spilled bytes", "SASS an element", "compiling, ms"]


def launches(dtype):
    """What the kernels' launchers launch in a step of one tower: (name, kernel, arguments, programs, elements
    that they write)."""
    norm1, norm2, pooled = ((48, 55, 55), (128, 27, 27), (48, 27, 27))
    cases = [("LRN, norm1", LRN, norm1), ("LRN, norm2", LRN, norm2), ("map_norm", MAP_NORM, norm2)]
    for name, rule, shape in cases:
        yield from normalisation(name, rule, shape, dtype)
    x, y = maps(norm1, dtype), maps(pooled, dtype)
    places = maps(pooled, torch.uint8)
    yield from recorded("pool1, forward", pool_kernels.largest, x, y, places, 3, 2, 0)
    yield from recorded("pool1, backward", pool_kernels.gradient, y, places, x, 3, 2, 0)
    yield from recorded(
        "blocks of conv1",
        conv_kernels.blocks,
        maps((3, 224, 224), torch.float32),
        maps((48, 57, 57), dtype),
        4,
        0,
    )
    if dtype == torch.float32:  # the only one
        row, halted = maps((192, 256, 9), dtype)[0].flatten(), torch.empty((), device="meta")
        yield from recorded("update", update_kernel.update, row, row, row, halted, 0.01, 0.9, 0.0005)
        images = torch.empty(9, 256, 256, 3, dtype=torch.uint8, device="meta")
        where, moved = torch.empty(BATCH, 2, dtype=torch.int64, device="meta"), maps((3, 1, 1), dtype)
        mean, out = maps((1, 224, 672), dtype)[0], maps((3, 224, 224), dtype)
        yield from recorded("images", prepare_kernel.prepare, images, where, moved, mean, 1.1, out)


def normalisation(name, rule, shape, dtype):
    """Forward and backward of a rule."""
    x = maps(shape, dtype)
    yield from recorded(f"{name}, forward", triton_kernels.normalise, x, rule)
    with patch.object(triton_kernels, "images_at_once", lambda elements, on_gpu: BATCH):
        yield from recorded(f"{name}, backward", triton_kernels.gradient, x, x, rule)


def maps(shape, dtype):
    last = torch.channels_last
    return torch.empty(BATCH, *shape, dtype=dtype, device="meta", memory_format=last)


def recorded(name, launcher, *arguments):
    """The launches that a launcher makes; the second and further are numbered."""
    found = []

    def run(kernel, *args, grid, warmup, **constants):
        number = f" {len(found) + 1}" * bool(found)
        given = dict(zip(kernel.arg_names, args)) | constants
        named = {name: given[name] for name in kernel.arg_names}
        written = [value for value in args if isinstance(value, torch.Tensor)]
        largest = max if launcher is not pool_kernels.largest else min  # of a window, one is written
        found.append((name + number, kernel, named, grid[0], largest(t.numel() for t in written)))

    with patch.object(JITFunction, "run", run):
        launcher(*arguments)
    return found


def compiled(kernel, arguments):
    """A kernel with the arguments of a launch. Returns: seconds, and the binary."""
    constant = {p.name for p in kernel.params if p.is_constexpr}
    constant |= {name for name, value in arguments.items() if type(value) is int and value == 1}
    signature = {name: type_of(value, name in constant) for name, value in arguments.items()}
    values = {(i,): value for i, (name, value) in enumerate(arguments.items()) if name in constant}
    aligned = [isinstance(v, torch.Tensor) or type(v) is int and v % 16 == 0 for v in arguments.values()]
    attributes = {
        (i,): [["tt.divisibility", 16]] for i, yes in enumerate(aligned) if yes and (i,) not in values
    }
    source = ASTSource(kernel, signature, values, attributes)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", TRITON_CACHE_DIR=folder):
        binary = triton.compile(source, target=TARGET, options={"num_warps": WARPS})
    return time.perf_counter() - start, binary.asm["cubin"]


def type_of(value, constant):
    if constant:
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32" if abs(value) < 2**31 else "i64"


def figures(cubin):
    """Registers, bytes that spill, instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = [
            subprocess.run([TOOLS / "cuobjdump", option, file.name], capture_output=True, text=True).stdout
            for option in ("-res-usage", "-sass")
        ]
    registers, stack = (int(re.search(rf"{name}:(\d+)", said[0])[1]) for name in ("REG", "STACK"))
    instructions = re.findall(r"/\*[0-9a-f]{4,}\*/ +(?:@!?\w+ )?([A-Z][\w.]*)", said[1])
    return registers, stack, sum(name not in ("NOP", "BRA") for name in instructions)


def line(name, kernel, arguments, programs, elements, dtype):
    """A line of the table."""
    seconds, cubin = compiled(kernel, arguments)
    registers, spilled, instructions = figures(cubin)
    each = instructions * programs * 32 * WARPS / elements
    return [name, str(dtype)[6:], registers, spilled, f"{each:.1f}", f"{1000 * seconds:.0f}"]


def main():
    lines = []
    for dtype in (torch.float32, torch.bfloat16):
        for launch in launches(dtype):
            lines.append(line(*launch, dtype))
    drawn = f"Triton {triton.__version__}, sm_90\n\n{table(HEAD, lines)}"
    print(drawn)
    redraw(PAGE, {"kernels": drawn})
    for size in map(int, sys.argv[1:]):
        seconds = {}
        for across in (True, False):
            rule = NormRule(across, size, 1e-4, 0.75, 1)
            for name, *launch, _, _ in normalisation(f"across={across}", rule, (128, 27, 27), torch.float32):
                seconds[name] = compiled(*launch)[0]
        print(size, {name: round(each, 1) for name, each in seconds.items()}, flush=True)


if __name__ == "__main__":
    main()
