"""Which class each photograph of a flat folder is of, as a file beside it says.

FILE CLASS ...      a line for each, separated by spaces, tabs or a comma, FILE with its ending or without:
                    Tiny ImageNet's val_annotations.txt, Kaggle's LOC_val_solution.csv, your own
ID                  ILSVRC's list: the number of the class of each photograph, in the order of their names;
                    with another file, a line CLASS ID or ID CLASS for each class, or CLASS, whose number
                    is then its line's
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet2gpu.faults import files

MOST = 2**26  # characters of such a file; Kaggle's has 2 million
ENDINGS = (".txt", ".csv", ".tsv")


def read_labels(
    source: Path, folder: Path, names: Sequence[str], classes: Sequence[str]
) -> tuple[dict[str, int], str]:
    """Of the photographs `names` in `folder`, below `source`: their labels, and in words where they are from.
    Raises: ValueError, if no file says it."""
    label_of = {name: label for label, name in enumerate(classes)}
    lists, ids = [], []
    for file, rows in _tables(source, folder):
        if found := _by_names(rows, names, label_of):
            return found, f"{folder.name}/: classes are from {file.name}"
        if all(len(row) == 1 and row[0].isdecimal() for row in rows):
            if len(rows) == len(names):
                lists.append((file, [int(row[0]) for row in rows]))
        elif found := _by_ids(rows, label_of):
            ids.append((file, found))
    for file, numbers in lists:
        for other, label_at in ids:
            if set(numbers) <= set(label_at):
                found = {name: label_at[number] for name, number in zip(sorted(names), numbers)}
                return found, f"{folder.name}/: classes are from {file.name}, by the numbers of {other.name}"
    way_out = "put a file val_labels.txt beside it, with a line FILE CLASS for each"
    if lists:
        way_out = f"{lists[0][0].name} has numbers: put synsets.txt beside it, a line CLASS NUMBER for each"
    unknown = "has no folders of classes, and no file says what its photographs are"
    raise ValueError(f"{folder}: {unknown}: {way_out}")


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
                text = files.read_file(file, MOST).decode()
            except (OSError, ValueError):
                continue
            if rows := [_words(line) for line in text.splitlines() if line.strip()]:
                yield file, rows


def _words(line):
    """By tabs, or by commas, or by spaces, if a name has none."""
    separator = next((mark for mark in "\t," if mark in line), None)
    return [word.strip() for word in line.strip().split(separator)]


def _by_names(rows, names, label_of):
    """Name -> label, if each photograph has a line FILE CLASS, else None."""
    said = {}
    for row in rows:
        if len(row) > 1 and (words := [row[1], *row[1].split()[:1]]):  # Kaggle has boxes behind the class
            label = label_of.get(words[0], label_of.get(words[-1]))
            file = os.path.basename(row[0])
            said[file] = said[os.path.splitext(file)[0]] = label
    found = {name: said.get(name, said.get(os.path.splitext(name)[0])) for name in names}
    return None if None in found.values() else found


def _by_ids(rows, label_of):
    """Number -> label, if all classes have one, else None."""
    found = {}
    for line, row in enumerate(rows, 1):
        words = " ".join(row).split()[:2]
        known = [word for word in words if word in label_of]
        if known:
            numbers = [int(word) for word in words if word.isdecimal()]
            found[(numbers or [line])[0]] = label_of[known[0]]
    return found if len(set(found.values())) == len(label_of) else None
