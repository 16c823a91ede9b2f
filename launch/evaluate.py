"""Errors of trained networks on the validation images, alone and averaged.

    python launch/evaluate.py runs/alexnet-split
    python launch/evaluate.py runs/a runs/b runs/c --views 10
    torchrun --standalone --nproc_per_node=2 launch/evaluate.py runs/alexnet-split --split-model

Each argument is a run, of which the newest checkpoint counts, or a checkpoint, as
RUN/checkpoints/best. --views 10 averages
the probabilities of the four corners, the centre and their mirror images; several networks are
averaged likewise, as the paper's 5 and 7 were. One network after the other is in memory.
--split-model, --ddp and --hybrid are those of launch/train.py; figures are the same in every mode.
"""

import json
from pathlib import Path

from options import MODES, Parser, print_lines

from alexnet2gpu.faults.mistakes import one_line_mistakes


def parse(argv):
    parser = Parser("evaluate.py", __doc__, "--data", *MODES, "--set")
    what = "directory of a run or of a checkpoint"
    parser.add_argument("checkpoints", nargs="+", metavar="CKPT", type=Path, help=what)
    views = "of each image; default: 1, the centre"
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help=views)
    parser.share("--config", help="default: that of each run")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    if args.out and (args.out.is_dir() or not args.out.absolute().parent.is_dir()):
        raise ValueError(f"--out {args.out}: should be a file in a directory that is there")
    return args


def main(argv=None):
    with one_line_mistakes():
        args = parse(argv)
        from alexnet2gpu.data.sources import load_test_images
        from alexnet2gpu.faults.watch import Watch
        from alexnet2gpu.ranks.groups import Ranks
        from alexnet2gpu.ranks.torchrun import grid_of, mode_of
        from alexnet2gpu.runs import agreement
        from alexnet2gpu.runs.checkpoints.format import read_state
        from alexnet2gpu.runs.checkpoints.towers import read_towers
        from alexnet2gpu.runs.evaluate import average, check_alike, check_images, find_saved, words

        networks = [find_saved(place, args.config, args.set) for place in args.checkpoints]
        check_alike(networks, args.views)
        config, found, learned = networks[0]
        mode = mode_of(args.split_model, args.ddp, args.hybrid)
        grid = grid_of(config.model.towers, mode, program="launch/evaluate.py CKPT")
        test = load_test_images(config.data, config.model, learned)
        check_images(test, grid.replicas)
        for network in networks:
            model = network.config.model
            grid.placement(model)  # raises, if there can be none
            read_towers(network.checkpoint, model, range(model.towers))  # those of other ranks
            # too: all ranks come to the same conclusion, and rank 0 prints it
        configs = [network.config for network in networks]
        told = {"--views": args.views, **agreement.told(configs, {"test images": test})}
        for number, network in enumerate(networks, 1):
            files = {"checkpoint": network.checkpoint.name, **read_state(network.checkpoint).towers}
            told |= {f"network {number}: {key}": value for key, value in files.items()}

    figures, train = [], config.train
    views = f"{len(test)} images, {args.views} view{'s' * (args.views > 1)}"
    with Watch(grid) as watch, Ranks(grid, train.threads, train.keep_memory) as ranks:
        agreement.check_agreement(told, ranks)
        if grid.rank == 0:
            print_lines(test.remarks)
        for alone, averaged in average(networks, test, ranks, args.views, watch.tick):
            path = networks[len(figures)].checkpoint
            figures.append({"checkpoint": str(path), "alone": alone, "averaged": averaged})
            if grid.rank == 0:
                print(f"{path}: {views}: {words(alone)}, loss {alone['test_loss']:.4f}", flush=True)
        if grid.rank == 0 and len(networks) > 1:
            print(f"average of {len(networks)} networks: {words(averaged)}, loss {averaged['test_loss']:.4f}")
        if grid.rank == 0 and args.out:
            document = {"views": args.views, "images": len(test), "networks": figures}
            args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
