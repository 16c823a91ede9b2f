"""What bench.faults.readers gives a reader: its files, one of them with something else in its place.

Configs are here; inputs_of_images.py, inputs_of_packs.py and inputs_of_runs.py have the others.
"""

import abc
import os
import random
from collections.abc import Callable
from pathlib import Path

import yaml

from alexnet2gpu.config.load import REPOSITORY, config_text, load_config
from bench.faults.changes import change_tree, changes

SMALL = [
    "model.towers=2",
    "model.input=[3, 8, 8]",
    "model.stages=[{conv1: {type: conv, out: 4, init: 1, kernel: 3}, flat: flatten}, "
    "{fc8: {type: linear, out: 4, init: 1}}]",
    "data.crop=null",
    "optim.schedule=[{epoch: 1, weights: 0.1, biases: 0.1}]",
]


class Reader(abc.ABC):
    """Files of a folder; `change` puts something else in the place of one, `read` reads all as the package
    does and returns what is wrong, `put_back` makes them whole again. An error must have one of `names`."""

    def __init__(self, folder: Path):
        self.folder, self.names, self.changed = folder, (folder.name,), []
        self.make()
        self.whole = {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}

    def change(self, draw: Callable) -> str:
        from hypothesis import strategies as some

        file = draw(some.sampled_from(self.targets()))
        if draw(some.booleans()):
            what, content = "said otherwise", self.say(file, draw)
        else:
            source = changes(self.whole[file], random.Random(draw(some.integers(0, 2**32))))
            what, content = [next(source) for _ in range(draw(some.integers(1, 20)))][-1]
        kind = draw(some.sampled_from(["file"] * 30 + ["pipe", "device", "loop", "folder", "gone"]))
        self.put(file, content, kind)
        return f"{file}: {what} ({kind}): {content[:300]!r}"

    def put(self, file, content, kind="file"):
        self.changed.append(file)
        file.unlink()
        if kind == "file":
            file.write_bytes(content)
        elif kind == "pipe":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
        elif kind != "gone":
            file.symlink_to("/dev/zero" if kind == "device" else file)

    def put_back(self):
        for file in self.changed:
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            else:
                file.unlink(missing_ok=True)
            file.write_bytes(self.whole[file])
        self.changed = []

    def targets(self):
        return list(self.whole)

    @abc.abstractmethod
    def say(self, file, draw):
        """Content for a file that says something else."""


class Configs(Reader):
    def make(self):
        (self.folder / "base.yaml").write_text(config_text(load_config(REPOSITORY / "configs/quick.yaml")))
        (self.folder / "config.yaml").write_text("base: base.yaml\ntrain.batch: 8\n")
        self.names = "config.yaml", "base.yaml"

    def say(self, file, draw):
        tree = yaml.load(self.whole[file], yaml.CSafeLoader)
        change_tree(tree, draw)
        return yaml.dump(tree, Dumper=yaml.CSafeDumper).encode("utf-8", "replace")

    def read(self):
        config = load_config(self.folder / "config.yaml")
        (self.folder / "again.yaml").write_text(config_text(config))
        return (
            "" if load_config(self.folder / "again.yaml") == config else "not the same when it is read again"
        )
