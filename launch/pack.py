"""Pack a folder of photographs for training: decoded, scaled and cropped once.

    python launch/pack.py --data DIR
    python launch/pack.py --data DIR --store jpeg --out PACK
    python launch/pack.py --data PACK --check

DIR has train/ and val/, each with a folder of photographs for every class. The pack is written to
DIR/pack-STORE-SIZE, where `launch/train.py --data DIR` finds it, or to --out, which can then be
the --data of training. Interrupted, it goes on where it was when it is started again.

An image of 256x256 takes 197 KB in the raw store (ImageNet: 252 GB), about a tenth of it in the
jpeg store, from which it is decoded in every epoch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alexnet2gpu.faults.mistakes import ArgumentParser, one_line_mistakes  # noqa: E402


def parse(argv):
    parser = ArgumentParser(prog="pack.py", description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", required=True, type=Path,
                        help="has train/ and val/, each with a folder per class")
    parser.add_argument("--out", metavar="PACK", type=Path, help="default: DIR/pack-STORE-SIZE")
    parser.add_argument("--store", choices=("raw", "jpeg"), default="raw",
                        help="pixels as they are, or JPEG strings; default: raw")
    parser.add_argument("--size", type=int, default=256, help="side in pixels; default: 256")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG; default: 90")
    parser.add_argument("--workers", type=int, help="processes; default: one for each core")
    parser.add_argument("--check", action="store_true",
                        help="read the whole pack and compare checksums")
    args = parser.parse_args(argv)
    if args.size < 1 or not 1 <= args.quality <= 95 or (args.workers or 1) < 1:
        raise ValueError("--size and --workers are at least 1, --quality is from 1 to 95")
    return args


def main(argv=None):
    with one_line_mistakes():
        from alexnet2gpu.data.pack import layout, packing
        from alexnet2gpu.data.pack.growth import Form

        args = parse(argv)
        form = Form(args.store, args.size, args.quality)
        target = args.out or layout.pack_of(args.data, form.store, form.size)
        if target != args.data:  # which may be a pack already
            packing.pack(args.data, target, form, args.workers)
        if args.check:
            layout.check(target)
        for part in layout.PARTS:
            sidecar = layout.read_sidecar(target, part)
            skipped = sidecar["skipped"]
            print(f"{part}: {sidecar['shape'][0]:,} images of {len(sidecar['classes']):,} classes"
                  + f", {len(skipped):,} left out:" * bool(skipped))
            for name, reason in skipped[:10]:
                print(f"  {name}: {reason}".encode(errors="replace").decode())
            if len(skipped) > 10:
                print(f"  and others, all in {target / part}.json")
        size = sum(file.stat().st_size for file in target.iterdir())
        print(f"{target}: {size / 1e9:.2f} GB" + ", as it was written" * args.check)


if __name__ == "__main__":
    main()
