"""The checkpoint that a run goes on from, and whether it is the same run still.

The newest that is whole is taken. Those passed over are named, with the reason, and are set aside when the
run starts (runs/folder.py): nothing is deleted. What a run must keep is its identity: the network, how its
steps are counted, and the images, as far as their number and their labels tell. All else may be changed, and
is named too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet2gpu.config import schema
from alexnet2gpu.config.keys import Config
from alexnet2gpu.data.images import Images
from alexnet2gpu.faults import files
from alexnet2gpu.runs.checkpoints.format import Damaged, Progress, compare_checksums, read_state

ANEW = "start anew, in another directory"
SAME = ("model", "train.batch", "train.seed", "data.name")


@dataclass
class Start:
    """Where a run starts."""

    progress: Progress = field(default_factory=Progress)
    checkpoint: Path | None = None  # to go on from; None: from the beginning
    damaged: list[Path] = field(default_factory=list)  # newer ones that are not whole
    remarks: list[str] = field(default_factory=list)  # what a user should know, a line each
    towers: dict[str, dict] | None = None  # what `load_towers` gave of this rank's, until they are restored


def about(config: Config, images: Images) -> dict:
    """What a checkpoint says of its run, besides how far it is."""
    labels = np.ascontiguousarray(images.labels, np.int64)
    training = {"number": len(images), "labels": files.checksum(labels)}
    return {"config": schema.plain_tree(config), "images": training}


def find_start(run: Path, config: Config, images: Images) -> Start:
    """The newest whole checkpoint of a run; every tower's file is read. A run that was ended before its first
    one starts from the beginning.

    Raises: ValueError if all are damaged or gone, or if the newest whole one is of another run or of another
        version.
    """
    start, now = Start(), about(config, images)
    for found in sorted(run.glob("checkpoints/step-*"), reverse=True):
        try:
            state = read_state(found)
            changes = _compare(found, state, now)
            compare_checksums(found, state, range(config.model.towers))
            start.progress = schema.build_section(Progress, state["progress"])
        except Damaged as error:
            start.damaged.append(found)
            start.remarks.append(f"passed over {found}: {error}")
            continue
        except (LookupError, schema.Problem) as error:
            raise ValueError(f"{found / 'state.json'}: {error}") from None
        start.checkpoint = found
        start.remarks += [f"going on from {found}", *changes]
        return start
    if start.damaged:
        raise ValueError(f"no checkpoint is whole: {'; '.join(start.remarks)}: {ANEW}")
    if (run / "run.json").exists():
        raise ValueError(f"{run / 'checkpoints'}: its checkpoints are gone: {ANEW}")
    start.remarks.append(f"{run}: no checkpoint yet: from the beginning")
    return start


def check_agreement(steps: Sequence[int]) -> None:
    """Raises: ValueError if ranks did not all find the same checkpoint; `steps` are theirs."""
    if len(set(steps)) > 1:
        found = f"ranks have found checkpoints of steps {steps}"
        raise ValueError(f"{found}: --out should be on a disk that all machines share")


def _compare(checkpoint, state, now):
    """What is not as it was, a line each. Raises: ValueError if it is another run."""
    before, after = _flat(state.get("config")), _flat(now["config"])
    keys = [key for key in after | before if before.get(key) != after.get(key)]
    changes = {key: f"{key} is {after.get(key)}, was {before.get(key)}" for key in keys}
    others = [f"{same}: {changes[key]}" for same in SAME for key in keys if f"{key}.".startswith(f"{same}.")]
    trained_on = _flat(state.get("images"))
    others += [
        f"{key} of training images" for key in now["images"] if trained_on.get(key) != now["images"][key]
    ]
    if others:
        another = f"{checkpoint} was made with another {others[0]}"
        raise ValueError(f"{another}: start a new run, or undo the change")
    return list(changes.values())


def _flat(tree, path=""):
    """Parsed YAML -> {key path: value}."""
    if not isinstance(tree, list | dict) or not tree:
        return {path: tree}
    flat = {}
    for key, value in enumerate(tree) if isinstance(tree, list) else tree.items():
        flat |= _flat(value, f"{path}.{key}" if path else str(key))
    return flat
