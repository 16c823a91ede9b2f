"""Write a trained network, all its towers, as one file for others to read.

    python launch/export.py runs/alexnet-split --out alexnet.pt
    python launch/export.py runs/alexnet-split --out alexnet.safetensors
    python launch/export.py runs/alexnet-split/checkpoints/best --out alexnet.onnx

A plain state dict, or the network itself as ONNX, which reads raw pixels less the mean image and
gives logits. The argument is a run, of which the newest checkpoint counts, or a checkpoint.
"""

import sys
from pathlib import Path

# So that a fresh clone works from anywhere, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.faults.mistakes import ArgumentParser, one_line_mistakes  # noqa: E402


def parse(argv):
    parser = ArgumentParser(prog="export.py", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", metavar="CKPT", type=Path,
                        help="directory of a run or of a checkpoint")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True,
                        help="its ending says what: .pt, .safetensors or .onnx")
    parser.add_argument("--config", metavar="FILE", help="default: that of the run")
    parser.add_argument("--set", metavar="KEY.PATH=VALUE", action="append", default=[],
                        help="change a key of the config; any number of times")
    return parser.parse_args(argv)


def main(argv=None):
    with one_line_mistakes():
        from alexnet2gpu.runs.checkpoints import format as checkpoint
        from alexnet2gpu.runs.checkpoints.export import export

        args = parse(argv)
        found = checkpoint.newest(args.checkpoint)
        config = args.config or checkpoint.config_of(found)
        export(config, found, args.out, args.set)
    print(f"{found}: {args.out}, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
