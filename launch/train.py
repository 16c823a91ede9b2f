"""Train a network: on one device, split over ranks, replicated over ranks, both, or as the hybrid of 2014.

    python launch/train.py
    torchrun --standalone --nproc_per_node=2 launch/train.py --split-model
    torchrun --standalone --nproc_per_node=2 launch/train.py --ddp
    torchrun --standalone --nproc_per_node=4 launch/train.py --split-model --ddp
    torchrun --standalone --nproc_per_node=2 launch/train.py --hybrid

    python launch/train.py --config configs/caltech.yaml --data DIR --from runs/caltech

Without --config it trains configs/quick.yaml on the bundled images. `--set key.path=value` changes
any key of the config, `--out DIR --resume` goes on with a run, in this mode or another, and --set
then changes the run's config for good. `--from` starts a new run with the weights of another, or of
a file with a state dict, in all layers that fit. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 save and stop
at the next step, and after them the exit status is 128 and their number; torchrun has statuses of
its own. (nohup does not keep SIGHUP from torchrun; `setsid torchrun ...` does.)
"""

from options import MODES, Parser

from alexnet2gpu.faults.mistakes import one_line_mistakes
from alexnet2gpu.faults.signals import Stop


def parse(argv):
    parser = Parser("train.py", __doc__, "--data", "--from", *MODES, "--set")
    own = "default: configs/quick.yaml; with --resume, the run's own"
    parser.share("--config", help=own)
    parser.add_argument("--out", metavar="DIR", help="what it leaves; default: runs/CONFIG-MODE")
    resumes = "go on from the newest checkpoint in --out"
    parser.add_argument("--resume", action="store_true", help=resumes)
    args = parser.parse_args(argv)
    if args.resume and getattr(args, "from"):
        raise ValueError("--from is for new runs: leave it or --resume out")
    return args


def main(argv=None):
    with one_line_mistakes():
        args = parse(argv)  # before torch is imported, which --help can do without
        from alexnet2gpu.faults.watch import Watch
        from alexnet2gpu.ranks.groups import Ranks
        from alexnet2gpu.ranks.torchrun import mode_of
        from alexnet2gpu.runs.agreement import check_agreement
        from alexnet2gpu.runs.folder import Run
        from alexnet2gpu.runs.out import take_folder
        from alexnet2gpu.runs.plan import make_plan
        from alexnet2gpu.runs.train import train

        mode = mode_of(args.split_model, args.ddp, args.hybrid)
        plan = make_plan(args.config, args.set, mode, args.out, args.resume)

    settings = plan.config.train
    how = settings.threads, settings.keep_memory
    with Stop() as stop, Watch(plan.grid) as watch, Ranks(plan.grid, *how) as ranks:
        stop.begin()  # until now there was nothing to save
        check_agreement(plan.told, ranks)
        first = plan.grid.rank == 0
        folder = ranks.gather(plan.folder or (take_folder(plan.name) if first else None))[0]
        with Run(folder, first, watch.tick) as run:
            stopped = train(plan, ranks, run, stop, watch)
    if stopped:
        raise SystemExit(128 + stopped)


if __name__ == "__main__":
    main()
