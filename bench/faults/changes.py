"""Changes of a file: into something hostile, then endlessly at random."""

import random
from collections.abc import Iterator

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
