"""Memory per GPU, before a run: predicted for any mode, batch and precision, and measured.

    python launch/memory.py --config configs/alexnet.yaml
    python launch/memory.py --config configs/quick.yaml --modes split fsdp --measure
    python launch/memory.py --config configs/alexnet.yaml --budget 3GiB

To predict, one step is played without data: it takes seconds, and no memory. --measure starts the
processes of each mode and counts what torch gives them in one step. --budget finds the largest batch
that fits in each mode, and says what stops the next one; with --measure it runs both, on a GPU with no
more memory than that reserved. --layers shows what is held in every place of the step, layer by layer.
--page writes an HTML file to play with: all modes, batches, precisions, levers, bytes sent and, where
configs/profiles knows the network, times.
--out DIR leaves the figures as JSON and CSV, each mode's step for docs.pytorch.org/memory_viz, and with
matplotlib PNG. Batches count the images of all ranks together.
"""

import json
import math
import pickle
import sys
from functools import partial
from pathlib import Path

from options import Parser, alone, device, size

from alexnet2gpu.faults.mistakes import one_line_mistakes

PRECISIONS = ["float32", "bfloat16", "float16", "float64"]


def parse(argv):
    from alexnet2gpu.ranks.names import MODES

    parser = Parser("memory.py", __doc__, "--set")
    parser.share_config("configs/alexnet.yaml")
    add, several = parser.add_argument, {"nargs": "+"}
    add("--beside", metavar="FILE", help="another config, for the same table")
    add("--modes", **several, choices=MODES, metavar="MODE", help=f"of {', '.join(MODES)}; default: all")
    batches = "images in all; default: train.batch of the config"
    add("--batches", **several, type=int, metavar="N", help=batches)
    add("--replicas", type=int, default=2, metavar="N", help="in ddp, grid, zero1, fsdp; default: 2")
    add("--ranks", type=int, metavar="N", help="of split and hybrid; default: one per tower")
    own = "default: train.precision of the config"
    add("--precision", **several, metavar="TYPE", choices=PRECISIONS, help=own)
    where = "to predict for; default: cuda where there is one"
    add("--device", choices=["cpu", "cuda"], help=where)
    add("--measure", action="store_true", help="run a step as well")
    add("--budget", metavar="SIZE", help="memory of a rank, as in 3GiB or 3GB")
    add("--layers", action="store_true", help="what is held in every place of the step")
    add("--out", metavar="DIR", help="for memory.json and figures")
    add("--page", metavar="FILE", help="all of it, at every batch, as a page to play with: takes minutes")
    args = parser.parse_args(argv)
    args.budget = args.budget and size(args.budget)
    check(args, device().type)
    return args


def check(args, here):
    """Raises: ValueError if the options do not go together."""
    alone("memory.py")
    if args.measure and args.device not in (None, here):
        raise ValueError(f"--device {args.device}: cannot be measured here, only predicted")
    if args.budget and args.batches:
        raise ValueError("--budget: finds the batches, so leave out --batches")
    numbers = args.replicas, args.ranks or 1, *(args.batches or [1])
    if not 1 <= min(numbers) <= max(numbers) < 2**31:
        raise ValueError(
            "--batches, --replicas and --ranks: should be whole numbers, at least 1, below 2**31"
        )


def planned(args, config, on_gpu):
    """The rows of the table: cases, and of each what is predicted, or why it cannot be."""
    from alexnet2gpu.memory.plan import Case, largest, modes_of, with_train

    for mode in dict.fromkeys(args.modes or modes_of(config)):
        for precision in dict.fromkeys(args.precision or [config.train.precision]):
            case = Case(mode, with_train(config, precision=precision), args.replicas, args.ranks)
            batches = dict.fromkeys(args.batches or [config.train.batch])
            if args.budget:
                batches = largest(partial(case.needs, on_gpu, args.budget), args.budget, case.parts)
            yield from map(case.with_batch, batches)


def write_page(args, command):
    """--page, with the times of the machines in configs/profiles."""
    import torch
    from tqdm import tqdm

    from alexnet2gpu.config.load import PLACES, load_config
    from alexnet2gpu.figures import explore as page
    from alexnet2gpu.memory.explore import explored
    from alexnet2gpu.model.profile import read

    def config_of(settings):
        return load_config(args.config, [*args.set, *settings])

    files = [file for place in PLACES for file in sorted(place.glob("configs/profiles/*.json"))]
    profiles = [read(str(file)) for file in files]
    done = partial(tqdm, unit="view", disable=not sys.stderr.isatty())
    found = explored(config_of, Path(args.config).stem, profiles, done)
    page.write_page(found | {"command": command, "torch": torch.__version__}, args.page)
    print(f"{args.page}: {Path(args.page).stat().st_size / 1e6:.1f} MB")


def main(argv=None):
    command = " ".join(["python", "launch/memory.py", *(argv or sys.argv[1:])])
    with one_line_mistakes():
        args = parse(argv)
        if args.page:
            return write_page(args, command)
        import torch
        from tqdm import tqdm

        from alexnet2gpu.config.load import load_config
        from alexnet2gpu.faults.watch import Watch
        from alexnet2gpu.memory import any_mode, tables
        from alexnet2gpu.ranks.modes import Grid

        on_gpu = (args.device or device().type) == "cuda"
        files = [args.config, *([args.beside] if args.beside else [])]
        todo = [
            (Path(file).stem, case)
            for file in files
            for case in planned(args, load_config(file, args.set), on_gpu)
        ]
        if all(case.mistake for _, case in todo):
            _, case = todo[0]
            raise ValueError(f"batch {case.config.train.batch} {case.mistake}: give other --batches")
        if args.out:
            Path(args.out).mkdir(parents=True, exist_ok=True)
        head = {"unit": "bytes", "command": command, "torch": torch.__version__}
    with Watch(Grid()):
        rows, steps = [], []
        for name, case in tqdm(todo, disable=not args.measure or not sys.stderr.isatty()):
            expected, ranks = case.mistake or case.predict(on_gpu, args.budget or math.inf), None
            if args.measure and not case.mistake:
                ranks = any_mode.measure(case.mode, case.config, case.replicas, args.budget, case.ranks)
            rows.append({"config": name, **tables.row(case.mode, case.number, case.config, expected, ranks)})
            if not case.mistake:
                steps.append((name, case, expected, [rank["moments"] for rank in ranks or []]))
                if args.layers:
                    rows[-1]["layers"] = tables.layers(expected)
            if args.out:  # as far as it has come
                text = json.dumps({**head, "rows": rows}, indent=1)
                Path(args.out, "memory.json").write_text(text + "\n")
        print(tables.heading(rows, on_gpu))
        print(tables.comparison(rows, args.budget))
        for row in rows if args.layers else []:
            print(tables.layers_text(row) if "layers" in row else "")
        if args.out:
            leave(rows, steps, Path(args.out))


def leave(rows, steps, folder):
    """The step of each mode as figures, and for torch's viewer; the layers as CSV."""
    from alexnet2gpu.figures import page
    from alexnet2gpu.figures.viewer import snapshot
    from alexnet2gpu.memory import tables

    if any("layers" in row for row in rows):
        (folder / "layers.csv").write_text(tables.layers_csv(rows))
    first = {}
    for name, case, expected, moments in steps:
        first.setdefault(case.mode, (name, case, expected, moments))
    for mode, (_, _, expected, _) in first.items():
        (folder / f"step-{mode}.pickle").write_bytes(pickle.dumps(snapshot(expected)))
    if not page.has_matplotlib():
        print(f"memory.json: {folder}; for figures as well: pip install -e '.[plots]'")
        return
    from alexnet2gpu.figures.memory import draw_bars, draw_peaks, draw_timeline

    draw_bars(rows, folder / "bars.png")
    if len({row["batch"] for row in rows}) > 1:
        draw_peaks(rows, folder / "peaks.png")
    for mode, (name, case, expected, moments) in first.items():
        train = case.config.train
        what = f"{name}, {mode}, batch {train.batch}, {train.precision}: one step, each place at its worst"
        draw_timeline(what, expected, moments, folder / f"timeline-{mode}.png")
    print(f"memory.json and figures: {folder}")


if __name__ == "__main__":
    main()
