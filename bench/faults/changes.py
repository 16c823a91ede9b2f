"""Changes of a file: into something hostile, then endlessly at random; and, for bench.faults.readers, of what
it says: another value anywhere in a parsed tree, any header."""

import copy
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

ALIASES = [f"&{b} [{', '.join(['*' + a] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi")]
BOMB = f"[&a [x, x, x, x, x, x, x, x, x], {', '.join(ALIASES)}]"  # 9 ** 9
HOSTILE = {
    "empty": b"",
    "zeros": bytes(4096),
    "newlines": b"\n" * 100,
    "a list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "deep section": b"a: " + b"{a: " * 5000 + b"1" + b"}" * 5000,
    "alias bomb": f"model: {BOMB}\n".encode(),
    "alias bomb, deep": f"model: {{towers: {BOMB}, input: [1, 28, 28], stages: {BOMB}}}\n"
    f"train: {{batch: {BOMB}}}\n".encode(),
    "python object": b"!!python/object/apply:os.system [touch fuzzed]\n",
    "pickle": b"cos\nsystem\n(S'touch fuzzed'\ntR.",
    "a number": b"1e999",
    "latin": b"\xff\xfe\x00",
    "a long number": b"train: {batch: " + b"9" * 10_000 + b"}\n",
    "null": b"null\n",
}


def changes(content: bytes, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Endless: a change's name, and the content changed by it."""
    yield from HOSTILE.items()
    numbers = [b"-1", b"0", b"1e30", b"null", b"[]", b"true", b"99999999999", b"7"]
    while True:
        at, size = draw.randrange(len(content)), min(len(content), draw.choice([1, 2, 8, 300]))
        before, piece, after = content[:at], content[at : at + size], content[at + size :]
        lines = content.split(b"\n")
        line = draw.randrange(len(lines))
        number = draw.choice(numbers)
        digit = draw.choice([i for i, byte in enumerate(content[:10_000]) if chr(byte).isdigit()] or [at])
        flipped = bytes([content[at] ^ 1 << draw.randrange(8)])
        changed = {
            "bit": before + flipped + content[at + 1 :],
            "bytes": before + draw.randbytes(size) + after,
            "cut": before,
            "removed": before + after,
            "twice": before + piece + content[at:],
            "zeroed": before + bytes(len(piece)) + after,
            "more": content + draw.randbytes(size),
            "line removed": b"\n".join(lines[:line] + lines[line + 1 :]),
            "line twice": b"\n".join(lines[:line] + lines[line : line + 1] + lines[line:]),
            "digit": content[:digit] + b"%d" % draw.randrange(10) + content[digit + 1 :],
            "number": content[:digit] + number + content[digit + 1 :],
        }
        yield draw.choice(list(changed.items()))


def other_values() -> Any:
    """Hypothesis's strategy of whatever JSON or YAML can say in the place of something else."""
    from hypothesis import strategies as some

    odd = [None, True, -1, 0, 1, 2, 2**31, 2**63, -(2**64), 10**30, 10**400, 0.5, -1.5, 1e308]
    odd += [float("nan"), float("inf"), "", ".", "../x", "relu", "train", "a" * 5000, "\0", "\n", "\ud800"]
    plain = some.sampled_from(odd) | some.integers() | some.floats() | some.text(max_size=8)
    return plain | some.recursive(
        plain,
        lambda inner: (
            some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=6), inner, max_size=3)
        ),
        max_leaves=6,
    )


def change_tree(tree: Any, draw: Callable) -> None:
    """Change a parsed tree in one to three random places: another value, one entry less, one more."""
    from hypothesis import strategies as some

    for _ in range(draw(some.integers(1, 3))):
        places = list(_places(tree))
        within, key = draw(some.sampled_from(places))
        how = draw(some.sampled_from(["replace", "replace", "replace", "remove", "swap", "add"]))
        if how == "replace":
            within[key] = draw(other_values())
        elif how == "remove" and len(tree) > 1:
            del within[key]
        elif how == "swap":
            other, place = draw(some.sampled_from(places))
            within[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(within[key])
        elif isinstance(within, dict):
            within[draw(some.text(max_size=8))] = within[key]
        else:
            within.insert(key, within[key])


def _places(tree):
    """(container, key) of everything in a tree."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def random_npy(draw: Callable) -> bytes:
    """A .npy file whose header says anything."""
    from hypothesis import strategies as some

    kinds = ["|u1", "<i8", ">u2", "<f4", "|b1", "|O", "<M8[s]", "|V3", "<U2", "|S0", "x", 3, None]
    kinds += [[("a", "<i4")], [("a", "|O")], [], ("<i4", (2,)), "<f4,|O"]
    sizes = some.sampled_from([0, 1, 2, 3, 8, 8, 8, -1, -8, 2**31, 2**62, 2**63, 10**30])
    said = {
        "descr": draw(some.sampled_from(["|u1", "<i8", *kinds])),
        "fortran_order": draw(some.booleans() | some.sampled_from([None, 3])),
        "shape": draw(some.lists(sizes, max_size=5).map(tuple) | some.sampled_from([(2, 8, 8, 3), (2,), 3])),
    }
    if draw(some.integers(0, 9)) == 0:
        change_tree(said, draw)
    head = draw(some.just(repr(said)) | some.text(max_size=40)).encode("utf-8", "replace") + b"\n"
    version = draw(some.sampled_from([1, 1, 1, 2, 3, 9]))
    length = draw(some.just(len(head)) | some.integers(0, 2**16 - 1))
    content = bytes(draw(some.sampled_from([0, 1, 16, 384, 3000])))
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + length.to_bytes(2 if version == 1 else 4, "little")
        + head
        + content
    )


def random_idx(draw: Callable) -> bytes:
    """An IDX file whose header says anything."""
    from hypothesis import strategies as some

    kind = bytes(draw(some.sampled_from([[0, 0, 8], [0, 0, 8], [0, 0, 8], [0, 0, 13], [1, 2, 3]])))
    sizes = draw(some.lists(some.sampled_from([0, 1, 2, 2, 8, 8, 2**16, 2**31, 2**32 - 1]), max_size=5))
    dimensions = draw(some.just(len(sizes)) | some.integers(0, 255))
    content = bytes(draw(some.sampled_from([math.prod(sizes), 0, 2, 128, 5000])) % 2**20)
    return kind + bytes([dimensions]) + b"".join(size.to_bytes(4, "big") for size in sizes) + content
