"""What an experiment is: every key that a config file may hold, with its default and its unit.

    model    towers, input, stages                          a Network; kinds.py has the layers
    data     name, dir, crop, flip, mean, colour, ...       which images, what is done to them
    train    seed, batch, epochs, max_steps, precision, ... the loop
    optim    momentum, weight_decay, schedule               the update rule and its rates
    memory   norm_input_only, regather, recompute, ...      what is kept for backward: levers.py
    exchange precision, overlap                             between ranks: an Exchange

Keys without a default must be in the file. A file with `base: OTHER.yaml` has what the other has,
but for the keys that it names, by their paths as after --set: `model.stages.1.conv3.init: 0.01`.
`load_config` reads one; `save_config` writes all that was resolved.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from alexnet2gpu import files, strict
from alexnet2gpu.checks import check
from alexnet2gpu.levers import Levers
from alexnet2gpu.network import Exchange, Network
from alexnet2gpu.strict import Problem, bounded

REPOSITORY = Path(__file__).resolve().parents[1]
LARGEST = 2**20  # bytes of a file


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and what is done to each before the network sees it, in this order.

    name        of the source: data/sources.py
    dir         where its files are (--data)
    store       of a folder of photographs, what its pack keeps: data/stores.py
    size        to what their shorter side is scaled and their longer one cropped, in pixels
    crop        side in pixels, placed at random in training, centred in testing; null: no crop
    flip        mirror with probability 1/2, in training
    mean        image: subtract the mean training image, its centre if images are cropped
    colour      strength of the colour noise, in training; 0: none
    colour_law  what that means: data/prepare.py
    divide      then divide by this; pixels are 0 to 255
    resize      then enlarge to this side, bilinearly
    threads     of a rank, to cut crops or to decode JPEG, ahead of the steps
    """

    name: Literal[
        "fashion-mnist-sample", "fashion-mnist", "cifar-10", "folder", "arrays", "synthetic"
    ]
    dir: str | None = None
    store: Literal["raw", "jpeg"] = "raw"
    size: int = bounded(256, least=1, most=2**16)
    crop: int | None = bounded(None, least=1, most=2**16)
    flip: bool = False
    mean: Literal["image", "none"] = "image"
    colour: float = bounded(0.0, least=0)
    colour_law: Literal["2012", "text"] = "2012"
    divide: float = 1.0
    resize: int | None = bounded(None, least=1, most=2**16)
    threads: int = bounded(2, least=1, most=1024)


@dataclass(frozen=True, kw_only=True)
class Train:
    """The loop, the same in every mode.

    seed         of everything that is drawn: seeds.py
    batch        images of one step, over all ranks together
    max_steps    end earlier, counted from the start of the run
    precision    precision.py
    log_every    steps to a line of metrics.jsonl
    save_minutes a checkpoint at least this often, besides those after epochs; null: only these
    keep         how many checkpoints stay, the newest ones, besides the best
    threads      CPU threads of a rank; null: the machine's cores, shared evenly
    keep_memory  on the CPU, freed memory stays with the process: cpu.py
    """

    seed: int = bounded(0, least=0)
    batch: int = bounded(least=1)
    epochs: int = bounded(least=1)
    max_steps: int | None = bounded(None, least=1)
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    log_every: int = bounded(20, least=1)
    save_minutes: float | None = bounded(10.0, least=0)
    keep: int = bounded(2, least=1)
    threads: int | None = bounded(None, least=1, most=1024)
    keep_memory: bool = True


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates; null leaves what was in force, 0 freezes."""

    weights: float | None = bounded(None, least=0)
    biases: float | None = bounded(None, least=0)


@dataclass(frozen=True, kw_only=True)
class Change(Rates):
    """What changes as an epoch starts: rates of all layers, over which those of single `layers`
    prevail; the strength of the colour noise."""

    epoch: int = bounded(least=1)  # the first epoch is 1
    layers: dict[str, Rates] = field(default_factory=dict)
    colour: float | None = bounded(None, least=0)


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The update rule of 2012: optim.py."""

    momentum: float = bounded(0.9, least=0, most=1)
    weight_decay: float = bounded(0.0005, least=0)
    schedule: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole experiment."""

    model: Network
    data: Data
    train: Train
    optim: Optim
    memory: Levers = Levers()
    exchange: Exchange = Exchange()

    def colour_in(self, epoch: int) -> float:
        """Strength of the colour noise in an epoch (from 1)."""
        begun = [change.colour for change in self.optim.schedule if change.epoch <= epoch]
        return [self.data.colour, *(colour for colour in begun if colour is not None)][-1]


def load_config(file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config; `overrides` are "key.path=value" strings, as given to --set.

    A relative `file` is looked for in the current directory, then in the repository.

    Raises: ValueError, naming the file or the override, and the key.
    """
    found = [path for path in (Path(file), REPOSITORY / file) if path.is_file()]
    if not found:
        known = ", ".join(sorted(f"configs/{p.name}" for p in REPOSITORY.glob("configs/*.yaml")))
        raise ValueError(f"--config {file}: there is no such file; there are {known}")
    source, changed = str(file), []
    try:
        tree = _read(found[0])
        for override in overrides:
            source = f"--set {override}"
            changed.append((strict.assign(tree, override), source))
        source = str(file)
        config = strict.build(Config, tree)
        check(config)
    except (Problem, OSError, UnicodeDecodeError) as error:
        key = getattr(error, "key", "")
        blame = [said for path, said in changed if key and f"{key}.".startswith(f"{path}.")]
        raise ValueError(f"{(blame or [source])[0]}: {error}") from None
    return config


def _read(file, users=()):
    """The parsed tree of a config, what it names put into a copy of its base."""
    if file.stat().st_size > LARGEST:
        raise Problem("", f"larger than {LARGEST:,} bytes: not a config")
    tree = strict.read(file.read_text())
    if not isinstance(tree, dict) or "base" not in tree:
        return tree
    base = (file.parent / str(tree.pop("base"))).resolve()
    if not base.is_file() or base in users:
        raise Problem("base", f"no file {base.name} lies beside this one, or it is based on this")
    below = _read(base, (*users, base))
    if not isinstance(below, dict):
        raise Problem("base", f"{base.name} has no sections")
    for key, value in tree.items():
        if isinstance(value, dict) and key in below:
            raise Problem(key, f"replaces a whole section: say {key}.{next(iter(value), '')}: ...")
        strict.put(below, str(key), value)
    return below


def save_config(config: Config, file: Path) -> None:
    """Write every key, defaults included, so that `load_config(file)` gives `config` again."""
    layout = {"sort_keys": False, "default_flow_style": None, "width": 110}
    files.write_whole(file, yaml.safe_dump(strict.plain(config), **layout).encode())
