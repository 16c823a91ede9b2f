"""Randomness has owners: every random number is drawn from a seed that names what it is for.

    what                         seed_of(...)                           drawn
    weights of a layer           seed, "weights", tower, layer          once, on the CPU, float32
    order, crop, flip, colour    seed, "epoch", epoch                   a table for every epoch
    dropout masks                seed, "dropout", tower, replica, step  each step, on the device

No draw depends on the number of processes or on what was drawn before. So all modes see the same weights and
images, a split the masks of one device (each replica has its own), and a resumed run needs no random state:
how far it had come is the state.
"""

import hashlib


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from the parts of `key`, the same on every machine and in every version of Python."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1
