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
from pathlib import Path

from options import Parser, device

from alexnet2gpu.faults.mistakes import one_line_mistakes

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
PRECISIONS = ["float32", "bfloat16", "float64"]


def parse(argv):
    from alexnet2gpu.memory.any_mode import MODES

    parser = Parser("memory.py", __doc__, "--set")
    parser.share_config("configs/alexnet.yaml")
    add, several = parser.add_argument, {"nargs": "+"}
    modes = f"of {', '.join(MODES)}; fsdp only with --measure"
    add("--modes", **several, choices=MODES, metavar="MODE", help=modes)
    batches = "images in all; default: train.batch of the config"
    add("--batches", **several, type=int, metavar="N", help=batches)
    add("--replicas", type=int, default=2, metavar="N", help="in ddp, grid, fsdp; default: 2")
    own = "default: train.precision of the config"
    add("--precision", **several, metavar="TYPE", choices=PRECISIONS, help=own)
    where = "to predict for; default: cuda where there is one"
    add("--device", choices=["cpu", "cuda"], help=where)
    add("--measure", action="store_true", help="run a step as well")
    add("--budget", metavar="SIZE", help="memory of a rank, as in 3GiB")
    add("--out", metavar="DIR", help="for memory.json and figures")
    args = parser.parse_args(argv)
    args.budget = args.budget and size(args.budget)
    check(args, device().type)
    return args


def size(text):
    """Bytes of a size such as 3GiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB)", text)
    if not match or not 0 < (bytes_ := int(float(match[1]) * UNITS[match[2]])) < 2**60:
        raise ValueError(f"--budget {text}: should be a number and KiB, MiB or GiB, as in 3GiB")
    return bytes_


def check(args, here):
    """Raises: ValueError if the options do not go together."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("memory.py starts its own processes: run it with python, not torchrun")
    if args.measure and args.device not in (None, here):
        raise ValueError(f"--device {args.device}: cannot be measured here, only predicted")
    if args.budget and args.batches:
        raise ValueError("--budget: finds the batches, so leave out --batches")
    if "fsdp" in (args.modes or []) and args.budget:
        raise ValueError("--modes fsdp: is not predicted, so there is no --budget for it")
    if "fsdp" in (args.modes or []) and not args.measure:
        raise ValueError("--modes fsdp: is measured, not predicted: add --measure")
    if min(args.replicas, *(args.batches or [1])) < 1:
        raise ValueError("--batches and --replicas: should be whole numbers, at least 1")


def planned(args, config, on_gpu):
    """What the rows of the table are of: modes, each with a config of some batch and precision."""
    from alexnet2gpu.memory.any_mode import MODES
    from alexnet2gpu.memory.plan import largest, modes_of, with_batches, with_train

    known = MODES if args.measure and not args.budget else MODES[:-1]
    for mode in dict.fromkeys(args.modes or modes_of(config, known)):
        for precision in dict.fromkeys(args.precision or [config.train.precision]):
            c = with_train(config, precision=precision)
            batches = dict.fromkeys(args.batches or [c.train.batch])
            if args.budget:
                batches = largest(mode, c, args.replicas, args.budget, on_gpu)
            yield from ((mode, one) for one in with_batches(mode, c, args.replicas, batches))


def main(argv=None):
    with one_line_mistakes():
        import torch
        from tqdm import tqdm

        from alexnet2gpu.config.load import load_config
        from alexnet2gpu.faults.watch import Watch
        from alexnet2gpu.figures import page
        from alexnet2gpu.memory import any_mode, report
        from alexnet2gpu.ranks.modes import Grid

        args = parse(argv)
        on_gpu = (args.device or device().type) == "cuda"
        config = load_config(args.config, args.set)
        todo = list(planned(args, config, on_gpu))
        if args.out:
            Path(args.out).mkdir(parents=True, exist_ok=True)
        command = " ".join(["python", "launch/memory.py", *(argv or sys.argv[1:])])
        head = {"unit": "bytes", "command": command, "torch": torch.__version__}
    with Watch(Grid()):
        rows, timelines = [], {}  # of each mode, the first that was planned
        for mode, c in tqdm(todo, disable=not args.measure or not sys.stderr.isatty()):
            expected, ranks = any_mode.predict(mode, c, args.replicas, on_gpu), None
            if args.measure:
                ranks = any_mode.measure(mode, c, args.replicas, args.budget)
            rows.append(report.row(mode, c, expected, ranks))
            moments = [rank["moments"] for rank in ranks or []]
            timelines.setdefault(mode, (c, expected, moments))
            if args.out:  # as far as it has come
                text = json.dumps({**head, "rows": rows}, indent=1)
                Path(args.out, "memory.json").write_text(text + "\n")
        print(f"MiB a rank, on {'a GPU' if on_gpu else 'the CPU'}")
        print(report.comparison(rows, args.budget))
        if args.out and not page.has_matplotlib():
            print(f"memory.json: {args.out}; for figures as well: pip install -e '.[plots]'")
        elif args.out:
            draw(Path(args.config).stem, rows, timelines, Path(args.out))
            print(f"memory.json and figures: {args.out}")


def draw(name, rows, timelines, folder):
    """The bars of all rows, and each mode's timeline."""
    from alexnet2gpu.figures.memory import draw_bars, draw_timeline

    draw_bars(f"{name}: memory of a rank", rows, folder / "bars.png")
    for mode, (config, expected, moments) in timelines.items():
        if expected:
            title = f"{name}, {mode}, batch {config.train.batch}, "
            title += f"{config.train.precision}: one step, each place at its worst"
            draw_timeline(title, expected, moments, folder / f"timeline-{mode}.png")


if __name__ == "__main__":
    main()
