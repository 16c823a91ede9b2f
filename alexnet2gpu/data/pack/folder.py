"""A folder of photographs, as people have it: which files there are, of which classes, to train or to test.

    FOLDER/train/CLASS/*   and, to test, one of VAL: FOLDER/val/CLASS/*; or FOLDER/val/* and a file that says
                           of which class each is: labels.py
    FOLDER/train/CLASS/*   alone, or
    FOLDER/CLASS/*         a fifth of each class is held out to test, drawn by a seed
    FOLDER/test/CLASS/*    alone: to test a network that has been trained on others

A label is the index of a class among the names of all, sorted, as torchvision's ImageFolder has it.
Photographs may lie in folders of a class's folder. Names that start with a dot, text files, and what file
managers leave do not count; all else is expected to be a photograph.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet2gpu.config.seeds import seed_of
from alexnet2gpu.data.pack.labels import read_labels

VAL = "val", "valid", "validation", "test"
HELD_OUT = 5  # of so many photographs one is held out
PACK = re.compile(r"pack-(test-)?(raw|jpeg)-\d+.*")  # packs lie beside the photographs
LEFT_BEHIND = {"@eadir", "__macosx", "thumbs.db", "desktop.ini", "$recycle.bin"}
TEXT = (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".mat", ".yaml", ".yml", ".ini", ".db")


@dataclass(frozen=True)
class Photographs:
    """Those to train on, or to test: (path below `folder`, label), class by class; only one class's names are
    in memory at a time.

    tops: where each class's lie; none if the class has no folder here.
    held_out: None: all of them; else whether these are the ones held out, or the others.
    labels: of files that lie flat, instead.
    """

    folder: Path
    classes: list[str]
    tops: list[Path | None] = field(default_factory=list)
    held_out: bool | None = None
    labels: dict[str, int] | None = None

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Raises: ValueError if a folder cannot be read."""
        if self.labels is not None:
            yield from sorted(self.labels.items(), key=lambda pair: (pair[1], pair[0]))
            return
        for label, top in enumerate(self.tops):
            found = sorted(_files_of(top)) if top else []
            if self.held_out is not None:
                drawn = _drawn([os.path.join(*pair) for pair in found], top)
                found = [pair for pair, out in zip(found, drawn) if out == self.held_out]
            for place, file in found:
                yield os.path.relpath(os.path.join(place, file), self.folder), label

    def listing(self) -> tuple[str, np.ndarray]:
        """A checksum of all names and labels, and how many there are of each class."""
        digest, counts = hashlib.sha256(), np.zeros(len(self.classes), int)
        for name, label in self:
            digest.update(os.fsencode(f"{name}\0{label}\0"))
            counts[label] += 1
        return f"sha256 {digest.hexdigest()}", counts


@dataclass(frozen=True)
class Folder:
    """What a folder has, and, a line each, what was not as train/ and val/ are."""

    classes: list[str]
    train: Photographs | None
    val: Photographs
    remarks: tuple[str, ...] = ()

    def part(self, name: str) -> Photographs | None:
        """`train` or `val`."""
        return getattr(self, name)


def read_folder(source: Path, to_test: bool = False) -> Folder:
    """What is in it; if all is `to_test`, nothing of FOLDER/CLASS/* is held out for that. Raises: ValueError,
    with the way out, if it is none of the above."""
    if not source.is_dir():
        raise ValueError(f"--data {source}: there is no such directory")
    train, val = source / "train", next((source / name for name in VAL if (source / name).is_dir()), None)
    if not train.is_dir():
        if val is None:
            classes = _class_folders(source, f"--data {source}", to_test)
            return Folder(classes, None, _in(source, classes)) if to_test else _held_out(source, classes)
        classes = _class_folders(val, val, True)
        return Folder(classes, None, _in(val, classes))
    classes = _class_folders(train, train)
    if val is None:
        return _held_out(train, classes)
    of_train, remarks = _in(train, classes), ()
    if val.name != "val":
        remarks = (f"no val/: {val.name}/ is tested on",)
    own = _folders(val)
    if not set(own) & set(classes):  # tiny ImageNet has them in val/images
        flat = val / own[0] if len(own) == 1 else val
        names = [name for _, name in _files_of(flat)] if len(own) < 2 else []
        if names:
            labels, said = read_labels(source, flat, names, classes)
            return Folder(classes, of_train, Photographs(flat, classes, labels=labels), (*remarks, said))
    if unknown := sorted(set(own) - set(classes)):
        raise ValueError(f"{val / unknown[0]}: there is no such class in train/")
    if not own:
        raise ValueError(f"{val}: has no folders in it, one for every class")
    return Folder(classes, of_train, _in(val, classes), remarks)


def _held_out(top, classes):
    tops = [top / name for name in classes]
    train, val = (Photographs(top, classes, tops, held_out) for held_out in (False, True))
    said = f"{top}: a fifth of each class, rounded up, is held out to test on, drawn by a seed"
    return Folder(classes, train, val, (said,))


def _in(folder, classes):
    there = set(_folders(folder))
    return Photographs(folder, classes, [folder / name if name in there else None for name in classes])


def _folders(folder):
    """Those that may be of classes, sorted."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and _counts(entry.name) and not PACK.fullmatch(entry.name)
    )


def _class_folders(folder, who, to_test=False):
    """The names of the classes. Raises: ValueError if they cannot be, or are of one class and not
    `to_test`."""
    found = _folders(folder)
    for name in found:
        if os.fsencode(name) != name.encode(errors="replace"):
            raise ValueError(f"{folder}/{name!r}: a name that is not of UTF-8: rename it")
    if not found and any(_counts(entry.name) for entry in os.scandir(folder) if entry.is_file()):
        raise ValueError(f"{who}: has photographs and no folders of classes: if it is a class, rename it")
    if not found:
        should = "it should have train/ and val/, each with a folder of photographs for every class"
        raise ValueError(f"{who}: there are no folders in it: {should}, or such folders themselves")
    if len(found) == 1:
        inside, below = _folders(folder / found[0]), folder / found[0]
        if inside and not any(_counts(entry.name) for entry in os.scandir(below) if entry.is_file()):
            names = ", ".join(inside[:5]) + ", ..." * (len(inside) > 5)
            raise ValueError(f"{who}: has one folder, {found[0]}, of folders only: {names}: {_up(below)}")
        if not to_test:
            one = f"has photographs of one class only, {found[0]}"
            raise ValueError(f"{who}: {one}: a network has nothing to tell apart")
    return found


def _up(below):
    if below.parent.name in ("train", *VAL):
        return f"an archive unpacked one level too deep? Move them up, into {below.parent}"
    return f"an archive unpacked one level too deep? Try --data {below}"


def _drawn(paths, top):
    """Which of a class's photographs are held out: of n, n / HELD_OUT rounded up, but not all; by a number
    that is drawn for each name, so that few change when some are added."""
    names = [os.path.relpath(path, top) for path in paths]
    order = np.argsort([seed_of(0, "held out", top.name, name) for name in names], kind="stable")
    out = np.zeros(len(names), bool)
    out[order[: max(0, min(-(-len(names) // HELD_OUT), len(names) - 1))]] = True
    return out


def is_gone(source: Path) -> bool:
    """Whether there is nothing in a folder any more that could be photographs."""
    return not source.is_dir() or not _folders(source)


def _counts(name):
    """Whether a name may be of a photograph, or of a folder of some."""
    low = name.lower()
    return name[0] != "." and low not in LEFT_BEHIND and not low.endswith(TEXT)


def _files_of(top):
    """(folder, name) of each file at any depth, links followed, but no folder entered twice."""
    entered = set()
    for folder, folders, names in os.walk(top, onerror=_raise_unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(filter(_counts, folders))
        yield from ((folder, name) for name in names if _counts(name))


def _raise_unreadable(error):
    raise ValueError(f"{error.filename}: cannot be read: {error.strerror}") from None
