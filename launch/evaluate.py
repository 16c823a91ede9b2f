"""Errors of trained networks on the validation images, alone and averaged.

    python launch/evaluate.py runs/alexnet-split
    python launch/evaluate.py runs/a runs/b runs/c --views 10
    torchrun --standalone --nproc_per_node=2 launch/evaluate.py runs/alexnet-split --split-model

Each argument is a run, of which the newest checkpoint counts, or a checkpoint. --views 10 averages
the probabilities of the four corners, the centre and their mirror images; several networks are
averaged likewise, as the paper's 5 and 7 were. One network after the other is in memory.
--split-model and --ddp are those of launch/train.py; figures are the same in every mode.
"""

import json
import sys
from pathlib import Path

# So that a fresh clone works from anywhere, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.faults.mistakes import ArgumentParser, one_line_mistakes, with_data  # noqa: E402


def parse(argv):
    parser = ArgumentParser(prog="evaluate.py", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="+", metavar="CKPT", type=Path,
                        help="directory of a run or of a checkpoint")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1,
                        help="of each image; default: 1, the centre")
    parser.add_argument("--config", metavar="FILE", help="default: that of each run")
    parser.add_argument("--data", metavar="DIR", help="where the images are (data.dir)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the figures as JSON")
    parser.add_argument("--split-model", action="store_true", help="towers over ranks")
    parser.add_argument("--ddp", action="store_true", help="images over replicas")
    parser.add_argument("--set", metavar="KEY.PATH=VALUE", action="append", default=[],
                        help="change a key of the configs; any number of times")
    args = with_data(parser.parse_args(argv))
    if args.out and (args.out.is_dir() or not args.out.absolute().parent.is_dir()):
        raise ValueError(f"--out {args.out}: should be a file in a directory that is there")
    return args


def main(argv=None):
    with one_line_mistakes():
        from alexnet2gpu.runs.checkpoints import format as checkpoint
        from alexnet2gpu.config.load import load_config
        from alexnet2gpu.data.prepare import find_statistics
        from alexnet2gpu.data.sources import load_images
        from alexnet2gpu.runs.evaluate import average, check_alike
        from alexnet2gpu.runs.evaluate import check_images
        from alexnet2gpu.ranks.modes import grid_of
        from alexnet2gpu.ranks.groups import Ranks
        from alexnet2gpu.faults.watch import Watch

        args = parse(argv)
        found = [checkpoint.newest(path) for path in args.checkpoints]
        configs = [load_config(args.config or checkpoint.config_of(path), args.set)
                   for path in found]
        check_alike(configs, found, args.views)
        grid = grid_of(configs[0].model.towers, args.split_model, args.ddp)
        images, test_images = load_images(configs[0].data, configs[0].model)
        check_images(test_images, grid.replicas)
        for path, config in zip(found, configs):
            checkpoint.read(path, config.model, range(config.model.towers))  # those of other
            # ranks too: all ranks come to the same conclusion, and rank 0 prints it
        for config in configs:
            find_statistics(images, config.data)

    figures = []
    train = configs[0].train
    with Watch(grid) as watch, Ranks(grid, train.threads, train.keep_memory) as ranks:
        votes = average(list(zip(configs, found)), images, test_images, ranks, args.views,
                        watch.tick)
        for alone, averaged in votes:
            path = found[len(figures)]
            figures.append({"checkpoint": str(path), "alone": alone, "averaged": averaged})
            if grid.rank == 0:
                print(f"{path}: {words(alone)}", flush=True)
        if grid.rank == 0 and len(found) > 1:
            print(f"average of {len(found)} networks: {words(averaged)}")
        if grid.rank == 0 and args.out:
            document = {"views": args.views, "images": len(test_images), "networks": figures}
            args.out.write_text(json.dumps(document, indent=1) + "\n")


def words(figures):
    """The figures of `mean_errors` as text."""
    return (f"top-1 error {figures['top1_error']:.2%}, top-5 error {figures['top5_error']:.2%}, "
            f"loss {figures['test_loss']:.4f}")


if __name__ == "__main__":
    main()
