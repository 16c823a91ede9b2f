"""The checkpoint that a run goes on from, and whether it is the same run still.

The newest that is whole is taken. Those passed over are named, with the reason, and are set aside when the
run starts (runs/folder.py): nothing is deleted. What a run must keep is its identity: the network, how its
steps are counted, and the images, as far as their number, labels and classes tell. All else may be changed,
and is named too.
"""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from alexnet2gpu.config import schema
from alexnet2gpu.config.keys import Config
from alexnet2gpu.data.task import Task
from alexnet2gpu.runs.checkpoints import format as saved
from alexnet2gpu.runs.checkpoints.format import Damaged, Progress, State

ANEW = "start anew, in another directory"
SAME = ("model", "train.batch", "train.seed", "data.name", "data.classes")
SAME_IMAGES = ("number", "labels", "names")


@dataclass
class Start:
    """Where a run starts."""

    progress: Progress = field(default_factory=Progress)
    checkpoint: Path | None = None  # to go on from; None: from the beginning
    versions: dict[str, str] = field(default_factory=dict)  # that the checkpoint was made with
    damaged: list[Path] = field(default_factory=list)  # newer ones that are not whole
    remarks: list[str] = field(default_factory=list)  # what a user should know, a line each
    towers: dict[str, dict] | None = None  # what `load_towers` gave of this rank's, until they are restored


def about(config: Config, task: Task) -> dict:
    """What a checkpoint says of its run, besides how far it is and what made it."""
    return {"config": schema.plain_tree(config), "images": asdict(task)}


def find_start(run: Path, config: Config, task: Task) -> Start:
    """The newest whole checkpoint of a run; every tower's file is read. A run that was ended before its first
    one starts from the beginning.

    Raises: ValueError if all are damaged or gone, or if the newest whole one is of another run or of another
        version.
    """
    start, now = Start(), about(config, task)
    for found in reversed(saved.checkpoints_of(run / "checkpoints")):
        for _ in range(2):  # once more, if it was the disk that failed for a moment, not the file
            try:
                state = saved.read_state(found)
                if state.progress.step != saved.step_of(found):
                    raise Damaged(f"it is of step {state.progress.step}, and was renamed or copied")
                changes = _compare(found, state, now)
                saved.compare_checksums(found, state, range(config.model.towers))
                break
            except (Damaged, RecursionError) as error:
                reason = error
        else:
            start.damaged.append(found)
            start.remarks.append(f"passed over {found}: {reason}")
            continue
        start.progress, start.checkpoint, start.versions = state.progress, found, state.versions
        start.remarks += [f"going on from {found}", *changes]
        if not (run / "metrics.jsonl").exists():
            start.remarks.append(f"{run / 'metrics.jsonl'} is gone, and with it what was logged before")
        return start
    if start.damaged:
        raise ValueError(f"no checkpoint is whole: {'; '.join(start.remarks)}: {ANEW}")
    if (run / "run.json").exists():
        raise ValueError(f"{run / 'checkpoints'}: its checkpoints are gone: {ANEW}")
    start.remarks.append(f"{run}: no checkpoint yet: from the beginning")
    return start


def changed_versions(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What makes other numbers than made those of a checkpoint, a line each."""
    changed = [key for key in now if before.get(key, now[key]) != now[key]]
    return [f"{key}: {now[key]}, was {before[key]}: bits may differ" for key in changed]


def _compare(checkpoint: Path, state: State, now: dict):
    """What is not as it was, a line each. Raises: ValueError if it is another run."""
    before, after = schema.flat(state.config), schema.flat(now["config"])
    keys = [key for key in after | before if before.get(key) != after.get(key)]
    changes = {key: f"{key} is {after.get(key)}, was {before.get(key)}" for key in keys}
    others = [changes[key] for same in SAME for key in keys if f"{key}.".startswith(f"{same}.")]
    was, task = (schema.build_section(Task, of) for of in (state.images, now["images"]))
    others += [_differing(key, was, task) for key in SAME_IMAGES if getattr(was, key) != getattr(task, key)]
    if others:
        raise ValueError(f"{checkpoint} is of another run: {others[0]}: start a new one, or undo the change")
    return list(changes.values())


def _differing(key, before, now):
    if key != "names":
        return f"training images have other {key}: {getattr(now, key)}, were {getattr(before, key)}"
    pairs = itertools.zip_longest(now.names, before.names)
    number, (name, was) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"class {number} of the training images is {name!r}, was {was!r}"
