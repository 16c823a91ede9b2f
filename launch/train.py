"""Train a network: on one device, split over ranks, replicated over ranks, or both.

    python launch/train.py
    torchrun --standalone --nproc_per_node=2 launch/train.py --split-model
    torchrun --standalone --nproc_per_node=2 launch/train.py --ddp
    torchrun --standalone --nproc_per_node=4 launch/train.py --split-model --ddp

Without --config it trains configs/quick.yaml on the bundled images. `--set key.path=value` changes
any key of the config, `--out DIR --resume` goes on with a run, in this mode or another. SIGTERM
and Ctrl-C save and stop at the next step; after them the exit status is 143 or 130.
"""

import sys
import time
from pathlib import Path

# So that a fresh clone works from anywhere, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.faults.mistakes import ArgumentParser, one_line_mistakes, with_data  # noqa: E402
from alexnet2gpu.faults.signals import Stop  # noqa: E402


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
        from alexnet2gpu.runs.checkpoints import resume
        from alexnet2gpu.ranks.assemble import check_memory
        from alexnet2gpu.config.load import load_config
        from alexnet2gpu.data.batches import check_batch
        from alexnet2gpu.data.prepare import find_statistics
        from alexnet2gpu.data.sources import load_images
        from alexnet2gpu.runs.evaluate import check_images
        from alexnet2gpu.ranks.modes import grid_of
        from alexnet2gpu.ranks.groups import Ranks
        from alexnet2gpu.runs.folder import Run, begun_before, check_folder, default_folder
        from alexnet2gpu.faults.watch import Watch

        args = parse(argv)
        mode = "-".join(["split"] * args.split_model + ["ddp"] * args.ddp) or "single"
        name = f"{Path(args.config or 'quick').stem}-{mode}"
        begun = begun_before(args.out, name)
        again = args.resume or begun is not None
        out = begun or check_folder(args.out, args.resume)
        file = args.config or (out / "config.yaml" if again else "configs/quick.yaml")
        config = load_config(file, args.set)
        grid = grid_of(config.model.towers, args.split_model, args.ddp)
        check_memory(config, grid)
        images, test_images = load_images(config.data, config.model)
        check_batch(config.train.batch, grid.replicas, len(images))
        check_images(test_images, grid.replicas)
        start = resume.find(out, config, images) if again else resume.Start()
        content = start.read(config.model, grid.towers)
        find_statistics(images, config.data)

    with Stop() as stop, Watch(grid) as watch:
        with Ranks(grid, config.train.threads, config.train.keep_memory) as ranks:
            stop.begin()  # until now there was nothing to save
            out = ranks.gather(out or default_folder(name))[0]
            with Run(out, grid.rank == 0) as run:
                stopped = train(config, ranks, watch, stop, run, images, test_images, start,
                                content)
    if stopped:
        raise SystemExit(128 + stopped)


def train(config, ranks, watch, stop, run, images, test_images, start, content):
    """The run, from `start` and the checkpoint's `content` on; returns the signal that ended it, 0
    if none. A function of its own, since model and DDP must be gone when the ranks end
    (ranks.py)."""
    from alexnet2gpu.runs.checkpoints import resume
    from alexnet2gpu.ranks.assemble import assemble
    from alexnet2gpu.runs.checkpoints.format import restore
    from alexnet2gpu.data.batches import EvaluationBatches, TrainBatches
    from alexnet2gpu.data.prepare import Preparation
    from alexnet2gpu.runs.checkpoints.saver import Saver
    from alexnet2gpu.runs.loop import fit
    from alexnet2gpu.runs.loop import Training

    resume.check_agreement(ranks.gather(start.progress.step))
    model, optimizer = assemble(config, ranks)
    if content:
        restore(content, model, optimizer)
        content.clear()  # it is as large as the model
    grid = ranks.grid
    prepare = Preparation(images, config, ranks.device)
    batches = TrainBatches(images, config, prepare, grid.replica, grid.replicas)
    test = EvaluationBatches(test_images, prepare, batches.share, grid.replica, grid.replicas)
    run.start(config, start.progress, start.damaged)
    attempt = ranks.gather(f"{time.time_ns():x}")[0]  # now all ranks find the run, or say so
    run.check_seen()
    about = resume.about(config, images)
    if run.writes:
        print(*start.remarks, sep="\n", end="\n" * bool(start.remarks), flush=True)
    with Saver(run.checkpoints, grid, config, about, attempt, run.flush, watch.tick) as saver:
        t = Training(config, ranks, watch, stop, run, saver, model,
                     ranks.replicate(model, config.memory), optimizer, batches, test,
                     start.progress)
        fit(t)
    if run.writes:
        report_end(t)
    return 0 if t.done else t.stopped


def report_end(t):
    from alexnet2gpu.memory import report

    if t.memory:
        print(report.table(t.memory))
    if not t.done:
        print(f"stopped after step {t.progress.step}, which is saved: go on with "
              f"--out {t.run.folder} --resume")
        return
    top1, top5 = (1 - t.progress.evaluation[f"{name}_error"] for name in ("top1", "top5"))
    print(f"test accuracy {top1:.2%} (top-5 {top5:.2%}) after {t.progress.step} steps")
    print(f"config, metrics, memory and checkpoints: {t.run.folder}")


if __name__ == "__main__":
    main()
