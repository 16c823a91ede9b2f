"""The programs of launch/, also where the package is installed and there is no repository:

    alexnet2gpu train --config configs/alexnet.yaml --data DIR
    torchrun --standalone --nproc_per_node=2 -m alexnet2gpu train --split-model
    python -m alexnet2gpu memory --config configs/alexnet.yaml

A wheel has launch/ and configs/ inside the package.
"""

import runpy
import sys
from pathlib import Path

import alexnet2gpu

PACKAGE = Path(__file__).resolve().parent


def main() -> None:
    """Run the program that the first argument names, with the others."""
    launch = next(place for place in (PACKAGE / "launch", PACKAGE.parent / "launch") if place.is_dir())
    programs = {file.stem: file for file in sorted(launch.glob("[!_]*.py")) if file.stem != "options"}
    name, rest = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name not in programs:
        if name == "--version":
            print(alexnet2gpu.__version__)
            return
        if name in ("-h", "--help"):
            print(f"usage: alexnet2gpu PROGRAM ...\n\nprograms, each with --help: {', '.join(programs)}")
            return
        print(f"error: no program {name!r}: there are {', '.join(programs)}", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = [str(programs[name]), *rest]
    sys.path.insert(0, str(launch))
    runpy.run_path(str(programs[name]), run_name="__main__")


if __name__ == "__main__":
    main()
