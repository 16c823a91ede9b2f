"""Which class each photograph of a flat folder is of, as a file beside it says.

FILE CLASS    a line for each, between them spaces, a tab, a comma or a semicolon, FILE with its ending or
              without, or with its path: Tiny ImageNet's val_annotations.txt, Kaggle's LOC_val_solution.csv
ID            ILSVRC's list: the number of each photograph's class, in the order of their names; another
              file has a line CLASS ID or ID CLASS for each class, or, if there is no such file, a line
              CLASS, whose number is its line's
"""

import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet2gpu.faults import files

MOST = 2**26  # characters of such a file; Kaggle's has 2 million
ENDINGS = (".txt", ".csv", ".tsv")


def read_labels(
    source: Path, folder: Path, names: Sequence[str], classes: Sequence[str]
) -> tuple[dict[str, int], str]:
    """Of the photographs `names` in `folder`, below `source`: their labels, and in words where they are from.
    Raises: ValueError, if no file says it, or not of all."""
    label_of = {name: label for label, name in enumerate(classes)}
    lists, ids, partly = [], [], []
    below = os.path.relpath(folder, source)
    for file, rows in _tables(source, folder):
        found = _by_names(rows, names, below, label_of)
        if found and None not in found.values():
            return found, f"{folder.name}/: classes are from {file.name}"
        if found:
            partly.append((file, next(name for name, label in found.items() if label is None)))
        elif all(len(row) == 1 and row[0].isdecimal() for row in rows):
            if len(rows) == len(names):
                lists.append((file, [int(row[0]) for row in rows]))
        elif numbered := _by_ids(rows, label_of):
            ids.append((file, *numbered))
    ids.sort(key=lambda entry: not entry[2])  # those that have numbers before those that have lines
    for file, numbers in lists:
        for other, label_at, explicit in ids:
            if set(numbers) <= set(label_at):
                found = {name: label_at[number] for name, number in zip(sorted(names), numbers)}
                first = min(label_at)
                lines = f"lines ({classes[label_at[first]]} is number {first})"
                which = "numbers" if explicit else lines
                return found, f"{folder.name}/: classes are from {file.name}, by the {which} of {other.name}"
    raise ValueError(f"{folder}: {_lack(lists, partly)}")


def _lack(lists, partly):
    for file, name in partly:
        return f"{file.name} says of no class of train/ that {name} is of it: add a line, FILE CLASS"
    unknown = "has no folders of classes, and no file says what its photographs are"
    for file, _ in lists:
        return f"{unknown}: {file.name} has numbers: put synsets.txt beside it, a line CLASS NUMBER for each"
    return f"{unknown}: put a file val_labels.txt beside it, with a line FILE CLASS for each"


def _tables(source: Path, folder: Path) -> Iterator[tuple[Path, list[list[str]]]]:
    """The text files beside the photographs and above them, and in the folders there, as lines of words."""
    places = [folder, *(place for place in folder.parents if source in (place, *place.parents))]
    below = [source / entry.name for entry in os.scandir(source) if entry.is_dir()]
    for place in dict.fromkeys([*places, *below, *(place / "data" for place in below)]):
        found = sorted(place.iterdir()) if place.is_dir() and place.name != "train" else []
        for file in found:
            if file.suffix.lower() not in ENDINGS or not file.is_file():
                continue
            try:
                lines = files.read_file(file, MOST).decode("utf-8-sig").splitlines()
                rows = [_words(line) for line in lines if line.strip()]
            except (OSError, ValueError, csv.Error):
                continue
            if rows:
                yield file, rows


def _words(line):
    """By tabs, or by commas or semicolons, or by spaces if a name has none."""
    separator = next((mark for mark in "\t,;" if mark in line), None)
    if separator is None:
        return line.split()
    return [word.strip() for word in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]


def _by_names(rows, names, below, label_of):
    """Name -> label, None where no line FILE CLASS says it, or two say different things; of no name: None."""
    said = defaultdict(set)
    for row in rows:
        if len(row) < 2:
            continue
        path, first_word = os.path.normpath(row[0]), row[1].partition(" ")[0]  # Kaggle has boxes behind it
        label = label_of.get(row[1], label_of.get(first_word))
        for name in {path, os.path.basename(path), os.path.splitext(os.path.basename(path))[0]}:
            said[name].add(label)
    found = {}
    for name in names:
        keys = os.path.join(below, name), name, os.path.splitext(name)[0]
        labels = next((said[key] for key in keys if key in said), {None})
        found[name] = next(iter(labels)) if len(labels) == 1 else None
    return found if set(found.values()) != {None} else None


def _by_ids(rows, label_of):
    """Number -> label, and whether the numbers are in the file; None unless all classes have one."""
    found, explicit = {}, True
    for line, row in enumerate(rows, 1):
        words = " ".join(row).split()[:2]
        known = [word for word in words if word in label_of]
        if known:
            numbers = [int(word) for word in words if word.isdecimal()]
            explicit = explicit and bool(numbers)
            found[(numbers or [line])[0]] = label_of[known[0]]
    return (found, explicit) if len(set(found.values())) == len(label_of) else None
