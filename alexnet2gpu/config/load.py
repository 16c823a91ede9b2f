"""A config file -> Config, and back.

A file with `base: OTHER.yaml` has what the other has, but for the keys that it names, by their
paths as after --set: `model.stages.1.conv3.init: 0.01`.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml

from alexnet2gpu.config import schema
from alexnet2gpu.config.checks import check
from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.schema import Problem

REPOSITORY = Path(__file__).resolve().parents[2]
LARGEST = 2**20  # bytes of a file


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
            changed.append((schema.assign(tree, override), source))
        source = str(file)
        config = schema.build(Config, tree)
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
    tree = schema.read(file.read_text())
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
        schema.put(below, str(key), value)
    return below


def dump(config: Config) -> str:
    """Every key as YAML, defaults included, so that `load_config` of it gives `config` again."""
    layout = {"sort_keys": False, "default_flow_style": None, "width": 110}
    return yaml.safe_dump(schema.plain(config), **layout)
