"""What a network costs, on paper: shapes, parameters, multiply-adds, traffic between towers.

    python launch/summary.py --config configs/alexnet.yaml
    python launch/summary.py --config configs/textbook.yaml --against configs/lenet.yaml

Shapes are of one tower; parameters and multiply-adds (of one image, forward) count all towers;
bytes are of float32. Where a stage ends, every tower sends its half to every other tower; in
backward it sends each of them the gradient of theirs, except after the last stage, where every
rank has the whole gradient of the logits already.
"""

import sys
from pathlib import Path

# So that a fresh clone works from anywhere, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.config.load import load_config  # noqa: E402
from alexnet2gpu.config.layers import text  # noqa: E402
from alexnet2gpu.faults.mistakes import ArgumentParser, one_line_mistakes  # noqa: E402
from alexnet2gpu.config.network import Traffic, totals, trace, traffic  # noqa: E402


def sends(sent):
    """Traffic in words."""
    forward, backward = f"{sent.forward:,} B forward", f"{sent.backward:,} B backward"
    return f"{'exchange':10} each tower sends {forward}, {backward} an image"


def table(network):
    """The layers of a network and, between stages, what the towers send each other."""
    times = f"{network.towers} x " if network.towers > 1 else ""
    lines = [
        f"{'':10} {'layer':<10} {'output':>16} {'parameters':>14} {'multiply-adds':>16}",
        f"{'':10} {'input':<10} {text(network.input):>16}",
    ]
    sent = traffic(network)
    for row in trace(network):
        last = row.name == list(network.stages[row.stage])[-1]
        first = row.name == list(network.stages[row.stage])[0]
        counts = [
            f"{n * network.towers:,}" if row.parameters else ""
            for n in (row.parameters, row.multiply_adds)
        ]
        lines.append(
            f"{f'stage {row.stage + 1}' * first:10} {row.name:<10} {times + text(row.gives):>16} "
            f"{counts[0]:>14} {counts[1]:>16}"
        )
        if last and network.towers > 1:
            lines.append(sends(sent[row.stage]))
    parameters, adds = totals(network)
    lines.append(f"{'total':10} {'':<10} {'':>16} {parameters:>14,} {adds:>16,}")
    if network.towers > 1:
        lines.append(sends(Traffic(*map(sum, zip(*sent)))) + ", in all")
    return "\n".join(lines)


def compare(files, networks):
    """Totals of two networks and their ratios."""
    lines = [f"{'':16}" + "".join(f"{Path(file).stem:>18}" for file in files) + f"{'ratio':>10}"]
    rows = [
        ("parameters", *(totals(network)[0] for network in networks)),
        ("multiply-adds", *(totals(network)[1] for network in networks)),
    ]
    lines.append(f"{'input':16}" + "".join(f"{text(network.input):>18}" for network in networks))
    lines += [
        f"{name:16}{ours:>18,}{theirs:>18,}{ours / theirs:>10,.1f}" for name, ours, theirs in rows
    ]
    return "\n".join(lines)


def main(argv=None):
    with one_line_mistakes():
        parser = ArgumentParser(prog="summary.py", description=__doc__.split("\n")[0])
        parser.add_argument("--config", metavar="FILE", default="configs/alexnet.yaml",
                            help="default: configs/alexnet.yaml")
        parser.add_argument("--against", metavar="FILE", help="a second config, to compare with")
        parser.add_argument("--set", metavar="KEY.PATH=VALUE", action="append", default=[],
                            help="change a key of --config; any number of times")
        args = parser.parse_args(argv)
        networks = [load_config(args.config, args.set).model]
        if args.against:
            networks.append(load_config(args.against).model)
    files = [args.config, args.against]
    for file, network in zip(files, networks):
        print(f"{file}\n{table(network)}\n")
    if args.against:
        print(compare(files, networks))


if __name__ == "__main__":
    main()
