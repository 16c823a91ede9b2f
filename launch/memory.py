"""Memory per GPU, before a run: predicted for any mode, batch and precision, and measured.

    python launch/memory.py --config configs/alexnet.yaml
    python launch/memory.py --config configs/quick.yaml --modes split fsdp --measure
    python launch/memory.py --config configs/alexnet.yaml --budget 3GiB

Prediction takes no time and no memory. --measure starts the processes of each mode and counts what
one step of training holds. --budget finds the largest batch that fits in each mode, and says what
stops the next one; with --measure it runs both, on a GPU with no more memory than that reserved.
--out DIR leaves the figures as JSON and, with matplotlib, as PNG. Batches count the images of all
ranks together.
"""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

# So that a fresh clone works from anywhere, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.faults.mistakes import ArgumentParser, one_line_mistakes  # noqa: E402

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse(argv):
    from alexnet2gpu.memory.any_mode import MODES

    parser = ArgumentParser(prog="memory.py", description=__doc__.split("\n")[0])
    parser.add_argument("--config", metavar="FILE", default="configs/alexnet.yaml",
                        help="default: configs/alexnet.yaml")
    parser.add_argument("--modes", nargs="+", choices=MODES, metavar="MODE",
                        help=f"of {', '.join(MODES)}; fsdp only with --measure")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N",
                        help="images in all; default: train.batch of the config")
    parser.add_argument("--replicas", type=int, default=2, metavar="N",
                        help="in ddp, grid, fsdp; default: 2")
    parser.add_argument("--precision", nargs="+", metavar="TYPE",
                        choices=["float32", "bfloat16", "float64"],
                        help="default: train.precision of the config")
    parser.add_argument("--device", choices=["cpu", "cuda"],
                        help="to predict for; default: cuda where there is one")
    parser.add_argument("--measure", action="store_true", help="run a step as well")
    parser.add_argument("--budget", metavar="SIZE", help="memory of a rank, as in 3GiB")
    parser.add_argument("--out", metavar="DIR", help="for memory.json and figures")
    parser.add_argument("--set", metavar="KEY.PATH=VALUE", action="append", default=[],
                        help="change a key of the config; any number of times")
    args = parser.parse_args(argv)
    args.budget = args.budget and size(args.budget)
    return args


def size(text):
    """Bytes of a size such as 3GiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB)", text)
    if not match or not (bytes_ := int(float(match[1]) * UNITS[match[2]])):
        raise ValueError(f"--budget {text}: should be a number and KiB, MiB or GiB, as in 3GiB")
    return bytes_


def check(args, on_gpu):
    """Raises: ValueError if the options do not go together."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("memory.py starts its own processes: run it with python, not torchrun")
    if args.measure and args.device and (args.device == "cuda") != on_gpu:
        raise ValueError(f"--device {args.device}: cannot be measured here, only predicted")
    if args.budget and args.batches:
        raise ValueError("--budget: finds the batches, so leave out --batches")
    if "fsdp" in (args.modes or []) and args.budget:
        raise ValueError("--modes fsdp: is not predicted, so there is no --budget for it")
    if "fsdp" in (args.modes or []) and not args.measure:
        raise ValueError("--modes fsdp: is measured, not predicted: add --measure")
    if min(args.replicas, *(args.batches or [1])) < 1:
        raise ValueError("--batches and --replicas: should be whole numbers, at least 1")


def plan(args, config, on_gpu):
    """What the rows of the table are of: modes, each with a config of some batch and precision."""
    from alexnet2gpu.memory import any_mode

    known = any_mode.MODES if args.measure and not args.budget else any_mode.MODES[:-1]
    splits = ("split", "grid") if config.model.towers == 1 else ()
    rows = []
    for mode in dict.fromkeys(args.modes or [mode for mode in known if mode not in splits]):
        copies = any_mode.shape_of(mode, config.model.towers, args.replicas)[2]
        for precision in dict.fromkeys(args.precision or [config.train.precision]):
            c = with_train(config, precision=precision)
            if args.budget:
                batches = largest(mode, c, args, copies, on_gpu)
            else:
                batches = dict.fromkeys(args.batches or [c.train.batch])
            for batch in batches:
                if batch % copies:
                    raise ValueError(
                        f"batch {batch} does not divide by the {copies} replicas of mode {mode}: "
                        "give other --batches, --replicas or --modes"
                    )
                rows.append((mode, with_train(c, batch=batch)))
    return rows


def with_train(config, **keys):
    """The config with other keys in its section `train`."""
    return replace(config, train=replace(config.train, **keys))


def largest(mode, config, args, copies, on_gpu):
    """The largest batch whose predicted peak fits the budget, if one does, and the next."""
    from alexnet2gpu.memory import any_mode

    def fits(share):
        c = with_train(config, batch=share * copies)
        return any_mode.predict(mode, c, args.replicas, on_gpu).bytes["peak"] <= args.budget

    least, most = 0, 1
    while fits(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return [share * copies for share in (least, most) if share]


def row(mode, config, expected, ranks):
    """A line of the table: what is `expected`, and what was measured on the `ranks`, if it was;
    on none if a GPU's memory did not suffice."""
    from alexnet2gpu.memory import report

    entry = {"mode": mode, "batch": config.train.batch, "precision": config.train.precision}
    if expected:
        entry |= {"predicted": expected.bytes, "worst": expected.worst.place,
                  "at_worst": expected.worst.parts}
    if ranks is not None:
        entry["measured"] = [rank["measured"] for rank in ranks]
        entry["device"] = ranks[0]["device"] if ranks else "cuda, out of memory"
    if ranks and not expected:
        most = entry["measured"].index(report.fullest(entry["measured"]))
        moments = ranks[most]["moments"]
        entry["worst"], _ = max(moments, key=lambda moment: moment[1])
    if ranks and expected:
        peaks = [rank["measured"]["peak"] for rank in ranks]
        entry["errors"] = [expected.bytes["peak"] / peak - 1 for peak in peaks]
    return entry


def main(argv=None):
    with one_line_mistakes():
        import torch
        from tqdm import tqdm

        from alexnet2gpu.figures import page
        from alexnet2gpu.memory import any_mode
        from alexnet2gpu.config.load import load_config
        from alexnet2gpu.ranks.modes import Grid
        from alexnet2gpu.memory import report
        from alexnet2gpu.faults.watch import Watch

        args = parse(argv)
        check(args, torch.cuda.is_available())
        on_gpu = args.device == "cuda" if args.device else torch.cuda.is_available()
        config = load_config(args.config, args.set)
        planned = plan(args, config, on_gpu)
        if args.out:
            Path(args.out).mkdir(parents=True, exist_ok=True)
        command = " ".join(["python", "launch/memory.py", *(argv or sys.argv[1:])])
        head = {"unit": "bytes", "command": command, "torch": torch.__version__}
    with Watch(Grid()):
        rows, timelines = [], {}  # of each mode, the first that was planned
        for mode, c in tqdm(planned, disable=not args.measure or not sys.stderr.isatty()):
            expected, ranks = any_mode.predict(mode, c, args.replicas, on_gpu), None
            if args.measure:
                ranks = any_mode.measure(mode, c, args.replicas, args.budget)
            rows.append(row(mode, c, expected, ranks))
            moments = [rank["moments"] for rank in ranks or []]
            timelines.setdefault(mode, (c, expected, moments))
            if args.out:  # as far as it has come
                text = json.dumps({**head, "rows": rows}, indent=1)
                Path(args.out, "memory.json").write_text(text + "\n")
        print(f"MiB a rank, on {'a GPU' if on_gpu else 'the CPU'}")
        print(report.comparison(rows, args.budget))
        if args.out and not page.possible():
            print(f"memory.json: {args.out}; for figures as well: pip install -e '.[plots]'")
        elif args.out:
            draw(Path(args.config).stem, rows, timelines, Path(args.out))
            print(f"memory.json and figures: {args.out}")


def draw(name, rows, timelines, folder):
    """The bars of all rows, and each mode's timeline."""
    from alexnet2gpu.figures import memory as memory_figures

    memory_figures.bars(f"{name}: memory of a rank", rows, folder / "bars.png")
    for mode, (config, expected, moments) in timelines.items():
        if expected:
            title = f"{name}, {mode}, batch {config.train.batch}, "
            title += f"{config.train.precision}: one step, each place at its worst"
            memory_figures.timeline(title, expected, moments, folder / f"timeline-{mode}.png")


if __name__ == "__main__":
    main()
