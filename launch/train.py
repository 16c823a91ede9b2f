"""Train a network: on one device, split over ranks, replicated over ranks, or both.

    python launch/train.py
    torchrun --standalone --nproc_per_node=2 launch/train.py --split-model
    torchrun --standalone --nproc_per_node=2 launch/train.py --ddp
    torchrun --standalone --nproc_per_node=4 launch/train.py --split-model --ddp

Without --config it trains configs/quick.yaml on the bundled images. `--set key.path=value` changes any key of the
config, `--out DIR --resume` goes on with a run, in this mode or another.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a fresh clone works from anywhere, not installed

from alexnet2gpu.mistakes import ArgumentParser, one_line_mistakes  # noqa: E402


def parse(argv):
    parser = ArgumentParser(prog="train.py", description=__doc__.split("\n")[0])
    parser.add_argument("--config", metavar="FILE", help="default: configs/quick.yaml; with --resume, the run's own")
    parser.add_argument("--split-model", action="store_true", help="one replica's towers over several ranks")
    parser.add_argument("--ddp", action="store_true", help="several replicas, their gradients averaged")
    parser.add_argument("--data", metavar="DIR", help="where the images are (data.dir)")
    parser.add_argument("--out", metavar="DIR", help="what the run leaves; default: runs/CONFIG-MODE")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--set", metavar="KEY.PATH=VALUE", action="append", default=[], dest="overrides")
    return parser.parse_args(argv)


def main(argv=None):
    with one_line_mistakes():
        from alexnet2gpu import checkpoint, run
        from alexnet2gpu.config import load_config
        from alexnet2gpu.data.batches import Preparation, EvaluationBatches, TrainBatches
        from alexnet2gpu.data.sources import load_images
        from alexnet2gpu.memory import report
        from alexnet2gpu.model import AlexNet
        from alexnet2gpu.optim import SGD2012
        from alexnet2gpu.precision import weight_dtype
        from alexnet2gpu.ranks import Ranks, place
        from alexnet2gpu.train import Training, check_batch, fit

        args = parse(argv)
        out = run.check_folder(args.out, args.resume)
        file = args.config or (out / "config.yaml" if args.resume else "configs/quick.yaml")
        config = load_config(file, [*args.overrides, *data_override(args.data)])
        grid = place(config.model.towers, args.split_model, args.ddp)
        images, test_images = load_images(config.data, config.model)
        check_batch(config.train.batch, grid.replicas, len(images))
        step, content = checkpoint.resume(out, config, grid.towers) if args.resume else (0, None)

    with Ranks(grid, config.train.threads) as ranks:
        joins = ranks.joins(len(config.model.stages))
        model = AlexNet(config.model, config.train.seed, grid.towers, joins)
        model.to(ranks.device, weight_dtype(config.train.precision))
        optimizer = SGD2012(model.named_parameters(), config.optim.momentum, config.optim.weight_decay)
        if content:
            checkpoint.restore(content, model, optimizer)
        prepare = Preparation(images.mean_image(), config, ranks.device)
        batches = TrainBatches(images, config, prepare, grid.replica, grid.replicas)
        test = EvaluationBatches(test_images, prepare, batches.share, grid.replica, grid.replicas)
        mode = "-".join(["split"] * args.split_model + ["ddp"] * args.ddp) or "single"
        out = ranks.gather(out or run.default_folder(Path("runs"), f"{Path(file).stem}-{mode}"))[0]
        t = Training(config, ranks, run.Run(out, grid.rank == 0), model, ranks.replicate(model), optimizer,
                     batches, test, step)
        t.run.start(config, step)
        errors = fit(t)
        if t.run.writes:
            print(report.table(t.memory), end="\n\n")
            print(f"test accuracy {1 - errors['top1_error']:.2%} (top-5 {1 - errors['top5_error']:.2%}) "
                  f"after {t.step} steps; config, metrics, memory and checkpoints are in {out}")


def data_override(folder):
    """--data as a --set, quoted for YAML."""
    return [] if folder is None else [f"data.dir={json.dumps(str(Path(folder).resolve()))}"]


if __name__ == "__main__":
    main()
