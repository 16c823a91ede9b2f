"""Pack a folder of photographs for training: decoded, scaled and cropped once.

    python launch/pack.py --data DIR
    python launch/pack.py --data DIR --store jpeg --out PACK
    python launch/pack.py --data PACK --check

DIR has train/ and val/, each with a folder of photographs for every class, or one of the other forms of
alexnet2gpu/data/pack/folder.py. The pack is written to DIR/pack-STORE-SIZE, where `launch/train.py --data
DIR` finds it, or to --out, which can then be the --data of training. Interrupted, it goes on where it was
when it is started again.

An image of 256x256 takes 197 KB in the raw store (ImageNet: 252 GB), about a tenth of it in the
jpeg store, from which it is decoded in every epoch.
"""

from pathlib import Path

from options import Parser, print_lines

from alexnet2gpu.faults.mistakes import one_line_mistakes


def parse(argv):
    parser = Parser("pack.py", __doc__)
    folder = "has train/ and val/, each with a folder per class, or such folders itself"
    parser.share("--data", required=True, type=Path, help=folder)
    parser.add_argument("--out", metavar="PACK", type=Path, help="default: DIR/pack-STORE-SIZE")
    kind = "pixels as they are, or JPEG strings; default: raw"
    parser.add_argument("--store", choices=("raw", "jpeg"), default="raw", help=kind)
    parser.add_argument("--size", type=int, default=256, help="side in pixels; default: 256")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG; default: 90")
    parser.add_argument("--grey", action="store_true", help="one channel, for networks that read one")
    parser.add_argument("--workers", type=int, help="processes; default: one for each core")
    check = "read the whole pack and compare checksums"
    parser.add_argument("--check", action="store_true", help=check)
    args = parser.parse_args(argv)
    if args.size < 1 or not 1 <= args.quality <= 95 or (args.workers or 1) < 1:
        raise ValueError("--size and --workers are at least 1, --quality is from 1 to 95")
    return args


def main(argv=None):
    with one_line_mistakes():
        args = parse(argv)
        from alexnet2gpu.data.pack import layout
        from alexnet2gpu.data.pack.packing import make_pack
        from alexnet2gpu.data.pack.reading import check_unchanged

        form = layout.Form(args.store, args.size, args.quality, 1 if args.grey else 3)
        target = args.out or layout.pack_of(args.data, form)
        if target != args.data:  # which may be a pack already
            make_pack(args.data, target, form, args.workers)
            print_lines(check_unchanged(args.data, target))
        if args.check:
            layout.check_pack(target)
        for part in layout.parts_of(target):
            report(part.sidecar, part.read_sidecar())
        size = sum(file.stat().st_size for file in target.iterdir())
        print(f"{target}: {size / 1e9:.2f} GB" + ", as it was written" * args.check)


def report(file, sidecar):
    """What a part of a pack has, and what was left out."""
    images, classes, skipped = sidecar.shape[0], sidecar.classes, sidecar.skipped
    left_out = f", {len(skipped):,} left out:" if skipped else ""
    print(f"{file.stem}: {images:,} images of {len(classes):,} classes{left_out}")
    for name, reason in skipped[:10]:
        print(f"  {name}: {reason}".encode(errors="replace").decode())
    if len(skipped) > 10:
        print(f"  and others, all in {file}")


if __name__ == "__main__":
    main()
