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
from pathlib import Path

# So that a fresh clone works from anywhere, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.faults.mistakes import ArgumentParser, one_line_mistakes, with_data  # noqa: E402


def parse(argv):
    parser = ArgumentParser(prog="diagnose.py", description=__doc__.split("\n")[0])
    parser.add_argument("--config", metavar="FILE", default="configs/quick.yaml",
                        help="default: configs/quick.yaml")
    parser.add_argument("--data", metavar="DIR", help="where the images are (data.dir)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N",
                        help="with so many seeds, from train.seed on; default: 1")
    parser.add_argument("--set", metavar="KEY.PATH=VALUE", action="append", default=[],
                        help="change a key of the config; any number of times")
    return with_data(parser.parse_args(argv))


def main(argv=None):
    with one_line_mistakes():
        import torch

        from alexnet2gpu.config.load import load_config
        from alexnet2gpu.data.sources import load_images
        from alexnet2gpu.runs.diagnose import complaint, diagnose
        from alexnet2gpu.data.batches import check_batch
        from alexnet2gpu.ranks.modes import Grid
        from alexnet2gpu.faults.watch import Watch

        args = parse(argv)
        if args.seeds < 1:
            raise ValueError(f"--seeds {args.seeds}: at least 1 is needed")
        first = load_config(args.config, args.set).train.seed
        configs = [load_config(args.config, [*args.set, f"train.seed={seed}"])
                   for seed in range(first, first + args.seeds)]
        images, _ = load_images(configs[0].data, configs[0].model)
        check_batch(configs[0].train.batch, 1, len(images))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    verdicts = []
    with Watch(Grid()):  # an image may be found changed when it is read
        for config in configs:
            loss, even, health = diagnose(config, images, device)
            print(f"{'layer':<8} {'std / mean':>11} {'dead units':>11} {'step / weights':>15}")
            for layer, signal, dead, step in health:
                print(f"{layer:<8} {signal:>11.4f} {dead:>11.1%} {step:>15.2e}")
            print(f"loss at the start {loss:.3f}, over all outputs evenly {even:.3f}, seed "
                  f"{config.train.seed}\n")
            verdicts.append(complaint(health))
    if any(verdicts):
        print(f"warning: {next(filter(None, verdicts))}")
    return int(any(verdicts))


if __name__ == "__main__":
    sys.exit(main())
