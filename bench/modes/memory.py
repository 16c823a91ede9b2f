"""Memory of a rank in every mode, and in today's alternatives, predicted and measured: configs/alexnet.yaml,
two ranks, float32.

    python -m bench.modes memory [--batches 16 128]

Writes bench/results/modes-memory-cpu.json: of each rank, bytes by category.
"""

import argparse

from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory import any_mode
from alexnet2gpu.memory.plan import modes_of
from alexnet2gpu.memory.predict import first_of, predict
from alexnet2gpu.memory.report import MIB
from bench.modes import alternatives
from bench.modes.options import on_cpu
from bench.processes import Pool
from bench.results import table, write

KINDS = "weights", "gradients", "momentum", "saved_activations", "peak"


def ours(mode, config):
    """Of each rank: what is predicted, what was measured."""
    expected = predict(mode, config, 2, on_gpu=False).bytes
    ranks = any_mode.measure(mode, config, 2, None)
    return [[rank.get("predicted", expected), rank["measured"]] for rank in ranks]


def theirs(name, config, pool):
    """The same of an alternative, whose ranks may differ."""
    measured = pool(alternatives.measure, 2, name, config, patience=300)
    return [[alternatives.predict(name, config, rank).bytes, found] for rank, found in enumerate(measured)]


def lines(found):
    """Of a table: for each mode and batch, of the rank that held most."""
    for name, ranks in found.items():
        expected, measured = max(ranks, key=lambda pair: pair[1]["peak"])
        error = max((e["peak"] / m["peak"] - 1 for e, m in ranks), key=abs)
        sizes = (f"{measured[kind] / MIB:.1f}" for kind in KINDS)
        yield [name, *sizes, f"{expected['peak'] / MIB:.1f}", f"{100 * error:+.2f} %"]


HEAD = ["mode, batch", "weights", "gradients", "momentum", "saved", "peak, measured", "predicted", "error"]


def main(words):
    parser = argparse.ArgumentParser(prog="bench.modes memory", description=__doc__.split("\n")[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 16])
    args = parser.parse_args(words)
    on_cpu()
    pool, found = Pool(), {}
    for batch in args.batches:
        config = load_config("configs/alexnet.yaml", [f"train.batch={batch}"])
        for mode in modes_of(config):
            if first_of(mode, 2, 2).world <= 2:
                found[f"{mode}, {batch}"] = ours(mode, config)
        for name in alternatives.NAMES:
            found[f"{name}, {batch}"] = theirs(name, config, pool)
    pool.close()
    print(table(HEAD, list(lines(found))))
    write("modes-memory", memory=found)
