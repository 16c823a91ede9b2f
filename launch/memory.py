"""Memory per GPU, before a run: predicted for any mode, batch and precision, and measured.

    python launch/memory.py --config configs/alexnet.yaml
    python launch/memory.py --config configs/quick.yaml --modes split ddp fsdp --measure
    python launch/memory.py --config configs/alexnet.yaml --budget 3GiB

Prediction takes no time and no memory. --measure starts the processes of each mode and counts what
one step of training holds. --budget finds the largest batch that fits in each mode, and says what
stops the next one; with --measure it runs both. --out DIR leaves the figures as JSON and, with
matplotlib, as PNG. Batches count the images of all ranks together.
"""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

# So that a fresh clone works from anywhere, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.mistakes import ArgumentParser, one_line_mistakes  # noqa: E402

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse(argv):
    from alexnet2gpu.trial import MODES

    parser = ArgumentParser(prog="memory.py", description=__doc__.split("\n")[0])
    parser.add_argument("--config", metavar="FILE", default="configs/alexnet.yaml",
                        help="default: configs/alexnet.yaml")
    parser.add_argument("--modes", nargs="+", choices=MODES, metavar="MODE",
                        help=f"of {', '.join(MODES)}; fsdp only with --measure")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N",
                        help="images in all; default: train.batch of the config")
    parser.add_argument("--replicas", type=int, default=2, help="in ddp, grid, fsdp; default: 2")
    parser.add_argument("--precision", nargs="+", metavar="TYPE",
                        choices=["float32", "bfloat16", "float64"],
                        help="default: train.precision of the config")
    parser.add_argument("--measure", action="store_true", help="run a step as well")
    parser.add_argument("--budget", metavar="SIZE", help="memory of a rank, as in 3GiB")
    parser.add_argument("--out", metavar="DIR", help="for memory.json and figures")
    parser.add_argument("--set", metavar="KEY.PATH=VALUE", action="append", default=[],
                        help="change a key of the config; any number of times")
    return parser.parse_args(argv)


def size(text):
    """Bytes of a size such as 3GiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB)", text)
    if not match:
        raise ValueError(f"--budget {text}: should be a number and KiB, MiB or GiB, as in 3GiB")
    return int(float(match[1]) * UNITS[match[2]])


def with_train(config, **keys):
    """The config with other keys in its section `train`."""
    return replace(config, train=replace(config.train, **keys))


def largest(mode, config, args, budget, on_gpu):
    """Configs with the largest batch whose predicted peak fits, if one does, and with the next."""
    from alexnet2gpu import trial

    copies = trial.shape(mode, config.model.towers, args.replicas)[2]

    def fits(share):
        expected = trial.expect(mode, with_train(config, batch=share * copies), copies, on_gpu)
        return expected.bytes["peak"] <= budget

    least, most = 0, 1
    while fits(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return [with_train(config, batch=share * copies) for share in (least, most) if share]


def row(mode, config, args, on_gpu, measured=None):
    """A line of the table: a mode and a batch, predicted and, on each rank, measured."""
    from alexnet2gpu import trial

    expected = trial.expect(mode, config, args.replicas, on_gpu)
    entry = {"mode": mode, "batch": config.train.batch, "precision": config.train.precision}
    if expected:
        entry |= {"predicted": expected.bytes, "worst": expected.worst.place,
                  "at_worst": expected.worst.parts}
    if measured is not None:
        entry["measured"] = [rank["measured"] for rank in measured]
        entry["device"] = measured[0]["device"] if measured else "out of memory"
        if measured and expected:
            peaks = [rank["measured"]["peak"] for rank in measured]
            entry["errors"] = [expected.bytes["peak"] / peak - 1 for peak in peaks]
    return entry


def main(argv=None):
    with one_line_mistakes():
        import torch

        from alexnet2gpu import trial
        from alexnet2gpu.config import load_config
        from alexnet2gpu.memory import report
        from alexnet2gpu.train import check_batch

        args, on_gpu = parse(argv), torch.cuda.is_available()
        config = load_config(args.config, args.set)
        known = trial.MODES if args.measure and not args.budget else trial.MODES[:-1]
        splits = ("split", "grid") if config.model.towers == 1 else ()
        modes = args.modes or [mode for mode in known if mode not in splits]
        budget = size(args.budget) if args.budget else None
        if "fsdp" in modes and (budget or not args.measure):
            raise ValueError("--modes fsdp: is measured, not predicted: add --measure")
        batches = args.batches or [config.train.batch]
        if min(args.replicas, *batches) < 1:
            raise ValueError("--batches and --replicas: should be whole numbers, at least 1")
        plan = {mode: [] for mode in modes}
        for mode, configs in plan.items():
            copies = trial.shape(mode, config.model.towers, args.replicas)[2]
            for precision in args.precision or [config.train.precision]:
                c = with_train(config, precision=precision)
                if budget:
                    configs += largest(mode, c, args, budget, on_gpu)
                    continue
                for batch in batches:
                    check_batch(batch, copies, batch)
                    configs.append(with_train(c, batch=batch))
    rows, moments = [], {}
    for mode, configs in plan.items():
        results = [None] * len(configs)
        if args.measure:
            results = trial.run(mode, configs, args.replicas, budget)
        for c, result in zip(configs, results):
            found = [rank.pop("moments") for rank in result or []]
            moments.setdefault(mode, found)  # of the mode's first config
            rows.append(row(mode, c, args, on_gpu, result))
    print(report.comparison(rows, budget))
    if args.out:
        leave(args, rows, plan, moments, on_gpu)


def leave(args, rows, plan, moments, on_gpu):
    """memory.json and figures in --out: the bars, and each mode's timeline of its first config."""
    import torch

    from alexnet2gpu import figures, trial

    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", "launch/memory.py", *sys.argv[1:]])
    head = {"unit": "bytes", "command": command, "torch": torch.__version__}
    (folder / "memory.json").write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
    if not figures.possible():
        print(f"memory.json: {folder}; for figures as well: pip install -e '.[plots]'")
        return
    name = Path(args.config).stem
    figures.bars(f"{name}: memory of a rank", rows, folder / "bars.png")
    for mode, (config, *_) in plan.items():
        expected = trial.expect(mode, config, args.replicas, on_gpu)
        if expected:
            title = f"{name}, {mode}, batch {config.train.batch}, "
            title += f"{config.train.precision}: one step, each place at its worst"
            file = folder / f"timeline-{mode}.png"
            figures.timeline(title, expected, moments[mode], file)
    print(f"memory.json and figures: {folder}")


if __name__ == "__main__":
    main()
