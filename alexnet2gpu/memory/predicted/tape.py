"""A step played through with sizes in place of tensors: which are held, and until when.

    storage = tape.new(bytes, "activations")     held once
    tape.hold(storage), tape.drop(storage)       held by one more, by one less; gone with the last
    tape.surge(bytes)                            so much more, for a moment
    tape.at("backward", 0, "conv2")              from now on, in this place

`tape.moments` has for every place how much was held there at its worst, and of what.
"""

from dataclasses import dataclass, field


@dataclass(eq=False)
class Storage:
    """Memory of a tensor and of all its views."""

    bytes: int
    kind: str
    born: tuple
    holders: int = 1


@dataclass
class Moment:
    """The worst moment in a place of the step: (pass, tower, layer), as places.py lists them."""

    place: tuple[str, int | None, str]
    bytes: int
    parts: dict[str, int] = field(default_factory=dict)  # by kind of storage


class Tape:
    """What is held, and the worst moments so far."""

    def __init__(self):
        self.held: set[Storage] = set()
        self.bytes = 0
        self.moments: list[Moment] = []
        self.at("start", None, "")

    @property
    def place(self) -> tuple[str, int | None, str]:
        return self.moments[-1].place

    def at(self, passing: str, tower: int | None, layer: str) -> None:
        self.moments.append(Moment((passing, tower, layer), -1))
        self.surge(0)

    def new(self, size: int, kind: str) -> Storage:
        storage = Storage(size, kind, self.place)
        self.held.add(storage)
        self.bytes += size
        self.surge(0)
        return storage

    def hold(self, storage: Storage) -> Storage:
        storage.holders += 1
        return storage

    def drop(self, storage: Storage) -> None:
        storage.holders -= 1
        assert storage.holders >= 0, f"dropped too often: {storage}"
        if storage.holders == 0:
            self.held.remove(storage)
            self.bytes -= storage.bytes

    def surge(self, more: int) -> None:
        moment = self.moments[-1]
        if self.bytes + more > moment.bytes:
            moment.bytes = self.bytes + more
            moment.parts = {"temporary": more}
            for storage in self.held:
                moment.parts[storage.kind] = moment.parts.get(storage.kind, 0) + storage.bytes
