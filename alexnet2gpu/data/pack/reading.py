"""The images of a folder of photographs, or of a pack: packed when they are first asked for, and compared
with the folder when they are asked for again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet2gpu.data.images import Images
from alexnet2gpu.data.pack.folder import is_gone, read_folder
from alexnet2gpu.data.pack.layout import Form, is_pack, pack_of, parts_of, read_pack
from alexnet2gpu.data.pack.packing import make_pack


def read_photographs(
    source: Path, form: Form, check: Callable[[list[str]], None], to_test: bool = False
) -> tuple[Images | None, Images]:
    """The images to train on, if there are any, and those to test on, with remarks.

    Args:
        source: a pack, or a folder as folder.py reads it.
        check: is called with the classes before anything is packed.
        to_test: of a folder that has classes and nothing else, all are to test.

    Raises: ValueError if the folder is of no such form, or not as it was packed.
    """
    target = pack_of(source, form, to_test)
    if target == source:
        remarks = ()
    elif is_pack(target):
        remarks = check_unchanged(source, target, to_test)
    else:
        folder = read_folder(source, to_test)
        check(folder.classes)
        make_pack(source, target, form, to_test=to_test)
        remarks = folder.remarks
    *train, val = (replace(images, remarks=remarks) for images in read_pack(target))
    return train[0] if train else None, val


def all_to_test(source: Path, form: Form, listing: str | None) -> bool:
    """Whether a folder has nothing to train on, or has classes only and a network was trained on others than
    it has: on those of the checksum `listing`. One that has been packed is what it was then."""
    if not source.is_dir() or is_pack(source) or is_pack(pack_of(source, form)):
        return False
    if is_pack(pack_of(source, form, to_test=True)):
        return True
    if read_folder(source, to_test=True).train is not None:
        return False
    try:
        drawn = read_folder(source).train
    except ValueError:  # one class, say
        return True
    return drawn is None or drawn.listing()[0] != listing


def check_unchanged(source: Path, pack: Path, to_test: bool = False) -> tuple[str, ...]:
    """What to say of a folder that has been packed. Raises: ValueError if it has other photographs now."""
    if is_gone(source):
        return (f"{source}: the photographs are gone, or lie elsewhere now: {pack.name} stands for them",)
    folder = read_folder(source, to_test)
    for part in parts_of(pack):
        about, photographs = part.read_sidecar(), folder.part(part.name)
        listing, counts = photographs.listing() if photographs else ("", np.zeros(0))
        if listing != about.source["listing"]:
            were = f"{about.source['photographs']:,} photographs of {len(about.classes):,} classes"
            now = f"{int(counts.sum()):,} of {len(folder.classes):,}"
            raise ValueError(
                f"{source}: {part.name}/ has changed since it was packed: {were} then, {now} now: "
                f"delete {pack} to pack it anew, or take what was packed, with --data {pack}"
            )
    return folder.remarks
