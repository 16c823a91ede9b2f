"""If these fail, what a GPU's allocator reserves, or the largest batch that fits, is searched for wrongly. By
hand, after c10/cuda/CUDACachingAllocator.cpp."""

import pytest

from alexnet2gpu.memory.caching import CachingAllocator
from alexnet2gpu.memory.plan import largest

MIB = 2**20


def test_segments_are_rounded_by_the_size_of_a_request():
    allocator = CachingAllocator()
    first, second = allocator.take(1), allocator.take(513)
    assert (first.size, second.size, allocator.reserved) == (512, 1024, 2 * MIB)
    allocator.take(MIB + 1)
    assert allocator.reserved == 22 * MIB
    allocator.take(9 * MIB)
    assert allocator.reserved == 22 * MIB  # out of the rest of 20
    allocator.take(11 * MIB)
    assert allocator.reserved == 34 * MIB


def test_a_freed_block_joins_its_neighbours_and_is_taken_again():
    allocator = CachingAllocator()
    blocks = [allocator.take(5 * MIB) for _ in range(4)]
    assert allocator.reserved == 20 * MIB
    for block in (blocks[0], blocks[2], blocks[1]):
        allocator.give(block)
    assert allocator.take(15 * MIB).size == 15 * MIB and allocator.reserved == 20 * MIB


def test_free_segments_are_given_back_at_a_limit():
    allocator = CachingAllocator(limit=50 * MIB)
    allocator.give(allocator.take(30 * MIB))
    kept = allocator.take(12 * MIB)  # of the same segment
    assert allocator.reserved == 30 * MIB
    with pytest.raises(MemoryError):
        allocator.take(40 * MIB)
    allocator.give(kept)
    allocator.take(40 * MIB)
    assert allocator.reserved == 40 * MIB


@pytest.mark.parametrize("most", [1, 7, 1203, 100_000])
def test_the_largest_batch_is_found_where_peaks_are_lines_and_where_they_are_steps(most):
    budget = 1000 + 5 * most

    def found_by(peak):
        asked = []
        return largest(lambda n: asked.append(n) or peak(n), budget), len(asked)

    line, calls = found_by(lambda n: 1000 + 5 * n)
    assert line == [most, most + 1] and calls < 10
    steps, calls = found_by(lambda n: budget if 0.6 * most < n <= most else 1000 + 5 * n)  # as at a limit
    assert steps == [most, most + 1] and calls < 45


def test_nothing_fits_a_small_budget_and_replicas_are_counted_together():
    assert largest(lambda n: 1000 + n, 900, step=4) == [4]
    assert largest(lambda n: n, 30, step=4) == [28, 32]
