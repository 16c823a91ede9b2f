"""Figures of trained networks: what they look for, answer, confuse and find alike.

    python launch/figures.py runs/alexnet-split
    python launch/figures.py runs/a runs/b --curves --out figures

curves.png shows the loss and the errors of all runs. The other figures are of the newest
checkpoint of the first: filters.png (the paper's figure 3, with each tower's share of colour),
predictions.png and neighbours.png (figure 4), confusion.png. --curves leaves them out: it takes no
checkpoint, no image and a few seconds. Needs pip install -e '.[plots]'.
"""

from pathlib import Path

from options import Parser, device

from alexnet2gpu.faults.mistakes import one_line_mistakes


def parse(argv):
    parser = Parser("figures.py", __doc__, "--data", "--set")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="directory of a run")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: figures in the first RUN")
    parser.add_argument("--curves", action="store_true", help="draw no more than curves.png")
    among = "training images to find neighbours among; default: 10,000"
    parser.add_argument("--among", metavar="N", type=int, default=10_000, help=among)
    args = parser.parse_args(argv)
    if args.among < 1:
        raise ValueError("--among: should be a whole number, at least 1")
    return args


def main(argv=None):
    with one_line_mistakes():
        args = parse(argv)
        from alexnet2gpu.faults.watch import Watch
        from alexnet2gpu.figures import curves, page
        from alexnet2gpu.ranks.modes import Grid

        if not page.has_matplotlib():
            raise ValueError("figures need matplotlib: pip install -e '.[plots]'")
        histories = curves.read_histories(args.runs)
        trained = None if args.curves else load(args)
        out = args.out or args.runs[0] / "figures"
        out.mkdir(parents=True, exist_ok=True)
    with Watch(Grid()):  # an image may be found changed when it is read
        curves.draw(histories, out / "curves.png")
        print(out / "curves.png")
        for file in draw(*trained, args.among, out) if trained else []:
            print(file, flush=True)


def load(args):
    """The first run's newest network, training and validation images; None without checkpoint."""
    from alexnet2gpu.data.sources import load_images
    from alexnet2gpu.runs.checkpoints.format import newest_checkpoint
    from alexnet2gpu.runs.evaluate import find_saved

    try:
        newest_checkpoint(args.runs[0])
    except ValueError:
        print(f"{args.runs[0]}: no checkpoint yet, so no more than curves")
        return None
    saved = find_saved(args.runs[0], overrides=args.set)
    sets = load_images(saved.config.data, saved.config.model)
    return saved.load(device()), *map(saved.learned.relabelled, sets)


def draw(trained, train, test, among, out):
    """All figures of one network; gives the file of each when it is there."""
    from alexnet2gpu.figures import answers, filters, neighbours, page

    if kernels := filters.first_kernels(trained.model):
        shares = filters.colour_shares(kernels)
        filters.draw(kernels, shares, out / "filters.png")
        yield out / "filters.png"
        for tower, share in enumerate(shares or []):
            untrained = "of the weights' energy is colour (untrained: 66.7%)"
            print(f"  tower {tower}: {share:.1%} {untrained}")
    found = trained.classify(test)[0].exp().numpy()  # (N, outputs)
    answers.draw(test, page.spread(len(test), 8), found, out / "predictions.png")
    yield out / "predictions.png"
    answers.draw_confusion(answers.confusion_of(test, found), test, out / "confusion.png")
    yield out / "confusion.png"
    chosen, near, distances = neighbours.find_neighbours(trained, test, train, among)
    neighbours.draw(test, chosen, train, near, distances, out / "neighbours.png")
    yield out / "neighbours.png"


if __name__ == "__main__":
    main()
