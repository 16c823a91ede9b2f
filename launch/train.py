"""Train a network: on one device, split over ranks, replicated over ranks, or both.

    python launch/train.py
    torchrun --standalone --nproc_per_node=2 launch/train.py --split-model
    torchrun --standalone --nproc_per_node=2 launch/train.py --ddp
    torchrun --standalone --nproc_per_node=4 launch/train.py --split-model --ddp

Without --config it trains configs/quick.yaml on the bundled images. `--set key.path=value` changes
any key of the config, `--out DIR --resume` goes on with a run, in this mode or another.
"""

import sys
from pathlib import Path

# So that a fresh clone works from anywhere, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.mistakes import ArgumentParser, one_line_mistakes, with_data  # noqa: E402


OPTIONS = {
    "--config": ("FILE", "default: configs/quick.yaml; with --resume, the run's own"),
    "--data": ("DIR", "where the images are (data.dir)"),
    "--out": ("DIR", "what the run leaves; default: runs/CONFIG-MODE"),
}
FLAGS = {
    "--split-model": "the towers of a replica over several ranks",
    "--ddp": "several replicas, whose gradients are averaged",
    "--resume": "go on from the newest checkpoint in --out",
}


def parse(argv):
    parser = ArgumentParser(prog="train.py", description=__doc__.split("\n")[0])
    for name, (metavar, text) in OPTIONS.items():
        parser.add_argument(name, metavar=metavar, help=text)
    for name, text in FLAGS.items():
        parser.add_argument(name, action="store_true", help=text)
    parser.add_argument("--set", metavar="KEY.PATH=VALUE", action="append", default=[],
                        help="change a key of the config; any number of times")
    return with_data(parser.parse_args(argv))


def main(argv=None):
    with one_line_mistakes():
        from alexnet2gpu import checkpoint, run
        from alexnet2gpu.config import load_config
        from alexnet2gpu.data.sources import load_images
        from alexnet2gpu.evaluate import check_images
        from alexnet2gpu.ranks import Ranks, place
        from alexnet2gpu.train import check_batch

        args = parse(argv)
        out = run.check_folder(args.out, args.resume)
        file = args.config or (out / "config.yaml" if args.resume else "configs/quick.yaml")
        config = load_config(file, args.set)
        grid = place(config.model.towers, args.split_model, args.ddp)
        images, test_images = load_images(config.data, config.model)
        check_batch(config.train.batch, grid.replicas, len(images))
        check_images(test_images, grid.replicas)
        step, content = 0, None
        if args.resume:
            identity = checkpoint.identity(config, images)
            step, content = checkpoint.resume(out, identity, config.model, grid.towers)

    with Ranks(grid, config.train.threads, config.train.keep_memory) as ranks:
        mode = "-".join(["split"] * args.split_model + ["ddp"] * args.ddp) or "single"
        out = ranks.gather(out or run.default_folder(f"{Path(file).stem}-{mode}"))[0]
        train(config, ranks, out, images, test_images, step, content)


def train(config, ranks, out, images, test_images, step, content):
    """The run, from `step` and the checkpoint's `content` on. A function of its own, since model
    and DDP must be gone when the ranks end (ranks.py)."""
    from alexnet2gpu import checkpoint, run
    from alexnet2gpu.assemble import assemble
    from alexnet2gpu.data.batches import EvaluationBatches, TrainBatches
    from alexnet2gpu.data.prepare import Preparation
    from alexnet2gpu.memory import report
    from alexnet2gpu.train import Training, fit

    model, optimizer = assemble(config, ranks)
    if content:
        checkpoint.restore(content, model, optimizer)
    grid = ranks.grid
    prepare = Preparation(images, config, ranks.device)
    batches = TrainBatches(images, config, prepare, grid.replica, grid.replicas)
    test = EvaluationBatches(test_images, prepare, batches.share, grid.replica, grid.replicas)
    t = Training(config, ranks, run.Run(out, grid.rank == 0), model,
                 ranks.replicate(model, config.memory), optimizer, batches, test, step)
    t.run.start(config, step)
    errors = fit(t)
    if t.run.writes:
        print(report.table(t.memory))
        top1, top5 = 1 - errors["top1_error"], 1 - errors["top5_error"]
        print(f"test accuracy {top1:.2%} (top-5 {top5:.2%}) after {t.step} steps")
        print(f"config, metrics, memory and checkpoints: {out}")


if __name__ == "__main__":
    main()
