"""A step for torch's own viewer of memory, https://docs.pytorch.org/memory_viz: as
torch.cuda.memory._snapshot has it, once pickled, with kinds of storages and places of the step as frames."""

from alexnet2gpu.memory.caching import MIB, replay
from alexnet2gpu.memory.play import Estimate


def snapshot(estimate: Estimate) -> dict:
    """Of the last of some steps that are like this one."""
    allocator, told = replay(estimate)
    segments = [_segment(address, size) for address, size in allocator.segments]
    return {
        "segments": segments,
        "device_traces": [[_event(*each) for each in told]],
        "allocator_settings": {},
    }


def _segment(address, size):
    kind = "small" if size == 2 * MIB else "large"
    where = {"device": 0, "address": address, "total_size": size, "stream": 0, "segment_type": kind}
    return {**where, "allocated_size": 0, "active_size": 0, "blocks": []}


def _event(taken, block, storage):
    frames = [storage.kind, " ".join(storage.place).strip()]
    return {
        "action": "alloc" if taken else "free_completed",
        "addr": block.address,
        "size": storage.bytes,
        "stream": 0,
        "time_us": 0,
        "frames": [{"name": name, "filename": "", "line": 0} for name in frames],
    }
