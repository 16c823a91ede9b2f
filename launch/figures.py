"""Figures of trained networks: what they look for, answer, confuse and find alike.

    python launch/figures.py runs/alexnet-split
    python launch/figures.py runs/a runs/b --data DIR --out figures

curves.png shows the loss and the errors of all runs. The other figures are of the newest
checkpoint of the first: filters.png (the paper's figure 3, with each tower's share of colour),
predictions.png and neighbours.png (figure 4), confusion.png. Needs pip install -e '.[plots]'.
"""

import sys
from pathlib import Path

# So that a fresh clone works from anywhere, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.faults.mistakes import ArgumentParser, one_line_mistakes, with_data  # noqa: E402


def parse(argv):
    parser = ArgumentParser(prog="figures.py", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="directory of a run")
    parser.add_argument("--data", metavar="DIR", help="where the images are (data.dir)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: figures in RUN")
    parser.add_argument("--among", metavar="N", type=int, default=10_000,
                        help="training images to find neighbours among; default: 10,000")
    parser.add_argument("--set", metavar="KEY.PATH=VALUE", action="append", default=[],
                        help="change a key of the first run's config; any number of times")
    return with_data(parser.parse_args(argv))


def main(argv=None):
    with one_line_mistakes():
        args = parse(argv)
        from alexnet2gpu.figures import curves, page
        from alexnet2gpu.ranks.modes import Grid
        from alexnet2gpu.faults.watch import Watch

        if not page.possible():
            raise ValueError("figures need matplotlib: pip install -e '.[plots]'")
        if args.among < 1:
            raise ValueError("--among: should be a whole number, at least 1")
        histories = curves.histories(args.runs)
        trained = load(args)
        out = args.out or args.runs[0] / "figures"
        out.mkdir(parents=True, exist_ok=True)
    with Watch(Grid()):  # an image may be found changed when it is read
        curves.draw(histories, out / "curves.png")
        print(out / "curves.png")
        for name in draw(*trained, args.among, out) if trained else []:
            print(out / name, flush=True)


def load(args):
    """The first run's newest network, training and validation images; None without checkpoint."""
    import torch

    from alexnet2gpu.runs.checkpoints import format as checkpoint
    from alexnet2gpu.config.load import load_config
    from alexnet2gpu.data.sources import load_images
    from alexnet2gpu.runs import evaluate

    try:
        newest = checkpoint.newest(args.runs[0])
    except ValueError:
        print(f"{args.runs[0]}: no checkpoint yet, so no more than curves")
        return None
    config = load_config(checkpoint.config_of(newest), args.set)
    train, test = load_images(config.data, config.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return evaluate.load(config, newest, train, device), train, test


def draw(trained, train, test, among, out):
    """All figures of one network; gives the name of each when it is there."""
    from alexnet2gpu.figures import answers, filters, neighbours, page
    from alexnet2gpu.runs import evaluate

    kernels, shares = filters.kernels(trained.model), None
    if kernels and kernels[0].shape[1] == 3:
        shares = [filters.colour_share(weight) for weight in kernels]
    if kernels:
        filters.draw(kernels, shares, out / "filters.png")
        yield "filters.png"
    for tower, share in enumerate(shares or []):
        print(f"  tower {tower}: {share:.1%} of the weights' energy is colour (untrained: 66.7%)")
    probabilities = evaluate.answers(trained, test)
    answers.draw(test, page.spread(len(test), 8), probabilities, out / "predictions.png")
    yield "predictions.png"
    answered = probabilities.argmax(1)
    counts = answers.confusion(test.labels, answered, max(test.classes, answered.max() + 1))
    answers.draw_confusion(counts, test, out / "confusion.png")
    yield "confusion.png"
    few, many = page.spread(len(test), 5), page.spread(len(train), among)
    queries, others = neighbours.features(trained, test, few), neighbours.features(trained, train, many)
    near, distances = neighbours.nearest(queries, others, 6)
    near = many[near.numpy()]  # indices among all training images again
    neighbours.draw(test, few, train, near, distances.numpy(), out / "neighbours.png")
    yield "neighbours.png"


if __name__ == "__main__":
    main()
