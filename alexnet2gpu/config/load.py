"""A config file -> Config, and back.

A file with `base: OTHER.yaml` has what the other has, but for the keys that it names, by their paths as
after --set: `model.stages.1.conv3.init: 0.01`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from alexnet2gpu.config.checks import check_rules
from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.schema import Problem, build_section, parse_yaml, plain_tree, put_override, put_value

PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parent
PLACES = REPOSITORY, PACKAGE  # of configs/, in a repository and in a wheel
LARGEST_CONFIG = 2**16  # characters of a file, which take 5 s to parse at the worst; ours have 4,000


def load_config(file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config; `overrides` are "key.path=value" strings, as given to --set. A relative `file` is looked
    for in the current directory, then in the repository. The network is as for images that are not read yet.

    Raises: ValueError, naming the file or the override, and the key.
    """
    return read_config(file, overrides).of_classes()


def read_config(file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """As `load_config`, but a layer may still have `out: classes`: who has read the images says how many
    there are, with `of_classes`."""
    found = [path for path in (Path(file), *(place / file for place in PLACES)) if os.path.isfile(path)]
    if not found:
        there = (path.name for place in PLACES for path in place.glob("configs/*.yaml"))
        known = ", ".join(f"configs/{name}" for name in sorted(there))
        raise ValueError(f"--config {file}: there is no such file; there are {known}")
    source, changed = str(file), []
    try:
        tree = _read_tree(found[0])
        for override in overrides:
            source = f"--set {override}"
            changed.append((put_override(tree, override), source))
        source = str(file)
        config = build_section(Config, tree)
        check_rules(config.of_classes())
    except (ValueError, OSError, RecursionError) as error:
        key = getattr(error, "key", "")
        blame = [said for path, said in changed if key and f"{key}.".startswith(f"{path}.")]
        raise ValueError(f"{(blame or [source])[0]}: {error}") from None
    return config


def _read_tree(file, users=()):
    """The parsed tree of a config, what it names put into its base's; `users` are based on this file."""
    with open(file, encoding="utf-8") as opened:
        source = opened.read(LARGEST_CONFIG + 1)
    if len(source) > LARGEST_CONFIG:
        raise Problem("", f"longer than {LARGEST_CONFIG:,} characters: not a config")
    tree = parse_yaml(source)
    if not isinstance(tree, dict) or "base" not in tree:
        return tree
    base = Path(os.path.realpath(file.parent / str(tree.pop("base"))))
    if not os.path.isfile(base) or base in users:
        raise Problem("base", f"no file {base.name} lies beside this one, or it is based on this")
    below = _read_tree(base, (*users, base))
    if not isinstance(below, dict):
        raise Problem("base", f"{base.name} has no sections")
    for key, value in tree.items():
        if isinstance(value, dict) and key in below:
            raise Problem(key, f"replaces a whole section: say {key}.{next(iter(value), '')}: ...")
        put_value(below, str(key), value)
    return below


def config_text(config: Config) -> str:
    """Every key as YAML, defaults included, so that `load_config` of it gives `config` again."""
    return yaml.safe_dump(plain_tree(config), sort_keys=False, default_flow_style=None, width=110)
