"""A model of torch's caching allocator on a GPU (c10/cuda/CUDACachingAllocator.cpp): from what a step asks
for to what it takes from the driver.

    a request              is rounded up to 512 bytes
    up to 1 MiB            comes out of segments of 2 MiB
    below 10 MiB           out of segments of 20 MiB
    larger                 out of a segment of its own, rounded up to 2 MiB

The smallest free block that suffices is taken, and the rest of it stays free if it has at least 512 bytes, in
a segment of the large more than 1 MiB. A block that is freed joins its free neighbours. Segments are kept,
until one more would go beyond a limit: then those that are free are given back.
"""

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, replace

from alexnet2gpu.memory.ledger import Storage
from alexnet2gpu.memory.play import Estimate

SMALL, MIB = 2**20, 2**20
CUBLAS = 65 * MIB  # of its workspaces on an H100: `other` in bench/results/measure-1gpu.json
STEPS = 3  # until blocks are where they will be


@dataclass(eq=False)
class Block:
    """Bytes of a segment, from `address` on."""

    address: int
    size: int
    small: bool
    free: bool = True
    before: "Block | None" = None
    after: "Block | None" = None

    @property
    def key(self) -> tuple[int, int]:
        """The order in which free blocks are tried."""
        return self.size, self.address


class CachingAllocator:
    """Without a GPU: addresses are counted from 2**40 on. `limit`: bytes that it may reserve; take raises
    MemoryError beyond."""

    def __init__(self, limit: float = math.inf):
        self.limit = limit
        self.free_blocks = {True: [], False: []}  # small, large: by size, then address
        self.reserved, self.next = 0, 2**40
        self.segments: list[tuple[int, int]] = []  # address and size

    def take(self, size: int) -> Block:
        """A block for a request of so many bytes."""
        size = max(512, -(-size // 512) * 512)
        small = size <= SMALL
        free = self.free_blocks[small]
        found = bisect_left(free, (size, 0), key=lambda block: block.key)
        block = free.pop(found) if found < len(free) else self._segment(size, small)
        left = block.size - size
        if left >= 512 if small else left > SMALL:
            rest = Block(block.address + size, left, small, True, block, block.after)
            if block.after:
                block.after.before = rest
            block.size, block.after = size, rest
            self._add(rest)
        block.free = False
        return block

    def give(self, block: Block) -> None:
        """Free a block."""
        block.free = True
        for other in (block.before, block.after):
            if other and other.free:
                self.free_blocks[block.small].remove(other)
                first, last = (other, block) if other is block.before else (block, other)
                first.size, first.after = first.size + last.size, last.after
                if last.after:
                    last.after.before = first
                block = first
        self._add(block)

    def _segment(self, size, small):
        taken = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        if self.reserved + taken > self.limit:
            self._give_back()
        if self.reserved + taken > self.limit:
            raise MemoryError
        block = Block(self.next, taken, small)
        self.segments.append((self.next, taken))
        self.next += taken + 2 * MIB
        self.reserved += taken
        return block

    def _give_back(self):
        for small, blocks in self.free_blocks.items():
            self.reserved -= sum(block.size for block in blocks if not (block.before or block.after))
            self.free_blocks[small] = [block for block in blocks if block.before or block.after]

    def _add(self, block):
        insort(self.free_blocks[block.small], block, key=lambda block: block.key)


def with_reserved(estimate: Estimate, limit: float = math.inf) -> Estimate:
    """The same with what the allocator has `reserved`, cuBLAS's workspaces among it: within the limit, if it
    can do with that."""
    try:
        allocator, _ = replay(estimate, limit - CUBLAS)
    except MemoryError:
        allocator, _ = replay(estimate)
    return replace(estimate, bytes={**estimate.bytes, "reserved": allocator.reserved + CUBLAS})


def replay(
    estimate: Estimate, limit: float = math.inf
) -> tuple[CachingAllocator, list[tuple[bool, Block, Storage]]]:
    """Some steps like the one that was played. Returns: the allocator then; of the last step, all that was
    there before and what was taken (True) or given back, in order. Raises: MemoryError beyond the limit."""
    allocator, blocks, told = CachingAllocator(limit), {}, []
    start = sum(born and storage.born == 0 for storage, born in estimate.events)
    for number in range(STEPS):
        last = number == STEPS - 1
        events = estimate.events if not number else estimate.events[start:]
        if last:
            told = [(True, block, storage) for storage, block in blocks.items()]
        for storage, born in events:
            if born:
                blocks[storage] = allocator.take(storage.bytes)
            if last:
                told.append((born, blocks[storage], storage))
            if not born:
                allocator.give(blocks.pop(storage))
        if not last:
            for storage in [each for each in blocks if each.born > 0]:
                allocator.give(blocks.pop(storage))
    return allocator, told
