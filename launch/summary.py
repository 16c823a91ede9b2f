"""Costs of a network, on paper: shapes, parameters, multiply-adds, traffic between towers.

    python launch/summary.py --config configs/alexnet.yaml
    python launch/summary.py --config configs/textbook.yaml --against configs/lenet.yaml

Shapes are of one tower; parameters and multiply-adds (of one image, forward) count all towers;
bytes are of float32. Where a stage ends, every tower sends its half to every other tower; in
backward it sends each of them the gradient of theirs, except after the last stage, where every
rank has the whole gradient of the logits already.
"""

from pathlib import Path

from options import Parser

from alexnet2gpu.config.text import shape_text, table
from alexnet2gpu.faults.mistakes import one_line_mistakes


def sends(sent):
    """Traffic in words."""
    forward, backward = f"{sent.forward:,} B forward", f"{sent.backward:,} B backward"
    return f"exchange  each tower sends {forward}, {backward} an image"


def layers(network):
    """The layers of a network and, between stages, what the towers send each other."""
    from alexnet2gpu.config.network import Traffic, totals, trace, traffic

    times, count = f"{network.towers} x " if network.towers > 1 else "", network.towers
    rows = [
        ("", "layer", "output", "parameters", "multiply-adds"),
        ("", "input", shape_text(network.input), "", ""),
    ]
    ends = {}  # index of a stage's last row -> the stage
    for row in trace(network):
        first = row.stage not in ends.values()
        ends = {i: stage for i, stage in ends.items() if stage != row.stage}
        ends[len(rows)] = row.stage
        counts = (row.parameters * count, row.multiply_adds * count) if row.parameters else ()
        cells = [f"{n:,}" for n in counts] or ["", ""]
        stage = f"stage {row.stage + 1}" if first else ""
        rows.append((stage, row.name, times + shape_text(row.gives), *cells))
    rows.append(("total", "", "", *(f"{n:,}" for n in totals(network))))
    lines, sent = table(rows, left=(0, 1)).splitlines(), traffic(network)
    if count > 1:
        for i in reversed(ends):
            lines.insert(i + 1, sends(sent[ends[i]]))
        lines.append(sends(Traffic(*map(sum, zip(*sent)))) + ", in all")
    return "\n".join(lines)


def compared(files, networks):
    """Totals of two networks and their ratios."""
    from alexnet2gpu.config.network import totals

    rows = [
        ("", *(Path(file).stem for file in files), "ratio"),
        ("input", *(shape_text(network.input) for network in networks), ""),
    ]
    for name, ours, theirs in zip(("parameters", "multiply-adds"), *map(totals, networks)):
        rows.append((name, f"{ours:,}", f"{theirs:,}", f"{ours / theirs:,.1f}"))
    return table(rows)


def main(argv=None):
    with one_line_mistakes():
        parser = Parser("summary.py", __doc__, "--set")
        parser.share_config("configs/alexnet.yaml")
        other = "a second config, to compare with"
        parser.add_argument("--against", metavar="FILE", help=other)
        args = parser.parse_args(argv)
        from alexnet2gpu.config.load import load_config

        networks = [load_config(args.config, args.set).model]
        if args.against:
            networks.append(load_config(args.against).model)
    files = [args.config, args.against]
    for file, network in zip(files, networks):
        print(f"{file}\n{layers(network)}\n")
    if args.against:
        print(compared(files, networks))


if __name__ == "__main__":
    main()
