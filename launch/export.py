"""Write a trained network, all its towers, as one file for others to read.

    python launch/export.py runs/alexnet-split --out alexnet.pt
    python launch/export.py runs/alexnet-split --out alexnet.safetensors
    python launch/export.py runs/alexnet-split/checkpoints/best --out alexnet.onnx

A plain state dict, or the network itself as ONNX, which reads raw pixels less the mean image and
gives logits. The argument is a run, of which the newest checkpoint counts, or a checkpoint.
"""

from pathlib import Path

from options import Parser

from alexnet2gpu.faults.mistakes import one_line_mistakes


def parse(argv):
    parser = Parser("export.py", __doc__, "--set")
    what = "directory of a run or of a checkpoint"
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help=what)
    kind = "its ending says what: .pt, .safetensors or .onnx"
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help=kind)
    parser.share("--config", help="default: that of the run")
    return parser.parse_args(argv)


def main(argv=None):
    with one_line_mistakes():
        args = parse(argv)
        from alexnet2gpu.runs.checkpoints.export import export
        from alexnet2gpu.runs.evaluate import find_saved

        saved = find_saved(args.checkpoint, args.config, args.set)
        export(saved, args.out)
    print(f"{saved.checkpoint}: {args.out}, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
