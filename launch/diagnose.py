"""Before a week of training, in seconds: does anything of an image reach the classifier?

    python launch/diagnose.py --config configs/alexnet.yaml --data DIR

Runs one batch forward and backward on one device, and prints for every layer with weights how much
its activations differ between images (standard deviation over mean), which share of its units is
dead, how large its first step is beside its weights; the loss that training will start from, and
what it would be if all outputs were labels equally often, which the luck of the labels does not
move. --seeds N does it with N seeds. Exit status 1 if hardly anything of an image reaches the
classifier.
"""

import sys
from dataclasses import replace

from options import Parser, device, print_lines

from alexnet2gpu.faults.mistakes import one_line_mistakes


def parse(argv):
    parser = Parser("diagnose.py", __doc__, "--data", "--set")
    parser.share_config("configs/quick.yaml")
    seeds = "with so many seeds, from train.seed on; default: 1"
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help=seeds)
    args = parser.parse_args(argv)
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: at least 1 is needed")
    return args


def main(argv=None):
    with one_line_mistakes():
        args = parse(argv)
        from alexnet2gpu.config.load import read_config
        from alexnet2gpu.data.batches import check_batch
        from alexnet2gpu.data.sources import load_experiment
        from alexnet2gpu.faults.watch import Watch
        from alexnet2gpu.ranks.modes import Grid
        from alexnet2gpu.runs.diagnose import complaint, diagnose, verdict

        config, images, _ = load_experiment(read_config(args.config, args.set))
        check_batch(config, Grid(), len(images))
        seeds = range(config.train.seed, config.train.seed + args.seeds)
    print_lines(images.remarks)
    verdicts = []
    with Watch(Grid()):  # an image may be found changed when it is read
        for seed in seeds:
            found = diagnose(replace(config, train=replace(config.train, seed=seed)), images, device())
            print(words(found, seed), end="\n\n")
            verdicts.append(complaint(found.health))
    if any(verdicts):
        print(f"warning: {next(filter(None, verdicts))}")
    else:
        print(verdict(found.health, config.optim.momentum))
    return int(any(verdicts))


def words(found, seed):
    """A Diagnosis as text."""
    from alexnet2gpu.config.text import table

    rows = [("layer", "std / mean", "dead units", "step / weights")]
    for layer, signal, dead, step in found.health:
        rows.append((layer, f"{signal:.4f}", f"{dead:.1%}", f"{step:.2e}"))
    loss, even = f"{found.loss:.3f}", f"{found.even:.3f}"
    return f"{table(rows)}\nloss at the start {loss}, over all outputs evenly {even}, seed {seed}"


if __name__ == "__main__":
    sys.exit(main())
