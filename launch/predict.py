"""What a trained network says of photographs: the five likeliest classes of each.

    python launch/predict.py runs/alexnet-split PHOTO...
    python launch/predict.py runs/alexnet-split PHOTO... --views 10 --json
    python launch/predict.py runs/alexnet-split PHOTO... --out answers.png

The first argument is a run, of which the newest checkpoint counts, or a checkpoint, as
RUN/checkpoints/best. --views 10 averages the
four corners, the centre and their mirror images. A photograph is prepared as those were that the network has
learned on: scaled, cropped, less the mean image. --out draws the photographs with their bars (needs
pip install -e '.[plots]').
"""

import json
from pathlib import Path

from options import Parser, device

from alexnet2gpu.faults.mistakes import one_line_mistakes


def parse(argv):
    parser = Parser("predict.py", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="directory of a run or of a checkpoint")
    parser.add_argument("photographs", nargs="+", metavar="PHOTO", type=Path, help="files")
    views = "of each photograph; default: 1, the centre"
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help=views)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", metavar="FILE.png", type=Path, help="draw them, with their bars")
    args = parser.parse_args(argv)
    if args.out and (args.out.suffix != ".png" or args.out.is_dir() or args.out in args.photographs):
        raise ValueError(f"--out {args.out}: should be a .png file, and none of the photographs")
    return args


def main(argv=None):
    with one_line_mistakes():
        args = parse(argv)
        from alexnet2gpu.figures import page
        from alexnet2gpu.runs import predict
        from alexnet2gpu.runs.evaluate import find_saved

        if args.out and not page.has_matplotlib():
            raise ValueError("figures need matplotlib: pip install -e '.[plots]'")
        saved = find_saved(args.run)
        photographs = predict.read(args.photographs, saved)
        found = predict.probabilities(saved.load(device()), photographs, args.views)
        answers = predict.likeliest(photographs.names, found)
        if args.out:
            from alexnet2gpu.figures.answers import draw_photographs

            draw_photographs(photographs, found, [file.name for file in args.photographs], args.out)
    if args.json:
        print(json.dumps([entry(*pair) for pair in zip(args.photographs, answers)], indent=1))
    else:
        for file, best in zip(args.photographs, answers):
            print(file, *(f"  {share:7.2%}  {name}" for name, share in best), sep="\n")


def entry(file, best):
    """Of one photograph, for JSON."""
    return {"file": str(file), "classes": [{"class": name, "probability": share} for name, share in best]}


if __name__ == "__main__":
    main()
