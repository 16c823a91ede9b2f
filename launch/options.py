"""Common ground of the programs of launch/: the way to the package, a parser, and options.

Importing this makes a fresh clone work from anywhere, installed or not: torchrun puts launch/ on
the path, and this puts the repository there.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
if (REPOSITORY / "alexnet2gpu").is_dir():  # not where launch/ lies inside the package, in a wheel
    sys.path.insert(0, str(REPOSITORY))

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
TORCHRUN = ("--nproc", "--nnodes", "--node", "--standalone", "--rdzv", "--master", "--max-restarts")
MODES = "--split-model", "--ddp", "--hybrid"
SHARED = {
    "--config": {"metavar": "FILE"},
    "--data": {"metavar": "DIR", "help": "where the images are (data.dir)"},
    "--from": {"metavar": "RUN", "help": "a run, a .pt or .safetensors file: start with its weights"},
    "--split-model": {"action": "store_true", "help": "the towers of a replica over several ranks"},
    "--ddp": {"action": "store_true", "help": "several replicas, each with its share of the images"},
    "--hybrid": {
        "action": "store_true",
        "help": "convolutions on every rank, for its share of the images; fully connected towers apart",
    },
    "--set": {
        "metavar": "KEY.PATH=VALUE",
        "action": "append",
        "default": [],
        "help": "change a key of the config; any number of times",
    },
}


class Parser(argparse.ArgumentParser):
    """Of a program's arguments. Complaints are ValueErrors, so that they too are printed once.

    Args:
        name: of the program.
        doc: its docstring, of which the first line is shown.
        shared: names of SHARED options that it takes.
    """

    def __init__(self, name: str, doc: str, *shared: str):
        super().__init__(prog=name, description=(doc or name).split("\n")[0])
        # given by python -m torch.distributed.launch; the environment says it, too
        self.add_argument("--local-rank", "--local_rank", help=argparse.SUPPRESS)
        for option in shared:
            self.share(option)

    def share(self, option: str, **changes) -> None:
        """Take a SHARED option, with another default or help."""
        self.add_argument(option, **(SHARED[option] | changes))

    def share_config(self, default: str) -> None:
        """Take --config, which has a `default`."""
        self.share("--config", default=default, help=f"default: {default}")

    def error(self, message):
        """Raises: ValueError, instead of printing the usage on every rank."""
        words = message.removeprefix("unrecognized arguments: ").split()
        if theirs := [word for word in words if word.startswith(TORCHRUN)]:
            raise ValueError(f"{theirs[0]} is torchrun's: put it before launch/{self.prog}")
        raise ValueError(f"{message} ({self.prog} --help lists the options)")

    def parse_args(self, args=None, namespace=None):
        """As ever; and `--data DIR` is one more `--set data.dir=DIR`, where both are there, in
        quotes since those values are YAML; so is `--from`."""
        parsed = super().parse_args(args, namespace)
        for option, key in (("data", "data.dir"), ("from", "train.weights_from")):
            if getattr(parsed, option, None) is not None and hasattr(parsed, "set"):
                place = os.path.realpath(getattr(parsed, option))
                parsed.set = [*parsed.set, f"{key}={json.dumps(place)}"]
        return parsed


def alone(program):
    """Raises: ValueError under torchrun, for a program that is one process."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(f"{program} plays or starts its ranks itself: run it with python, not torchrun")


def print_lines(lines):
    """Nothing, if there are none."""
    for line in lines:
        print(line)


def device():
    """The first GPU, or the CPU."""
    import torch

    from alexnet2gpu.model.device import gpus

    return torch.device("cuda" if gpus() else "cpu")


def size(text):
    """Bytes of a size such as 3GiB."""
    match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text)
    if not match or not 1 <= (bytes_ := float(match[1]) * UNITS[match[2]]) < 2**60:
        raise ValueError(f"--budget {text}: should be a number and KiB, MiB, GiB, KB, MB or GB, as in 3GiB")
    return int(bytes_)
