"""A run on two machines, each started as README says, and what comes of it when they or their network fail.

    python -m bench.faults.machines [SCENARIO ...] [--code DIR]

The machines are two on this one (network.py; Linux and root are needed), one rank of a small split network on
each, 48 steps, started by a torchrun of its own. In each scenario of `TOLD` the second machine is told one
thing other than the first; both must end with status 2 and one line that names the thing and the machines.
In each of `FAULTS` a cable, a machine or a disk fails in mid-run. If that ends the run, a line must name what
has failed, and the run is started once more with --resume. What it comes to in the end is compared with a run
to which nothing happened. `--code` tries another checkout of this repository.

torchrun itself may stay for minutes when its rank has ended, since it waits for the other torchrun; it is
left alone for LIMIT seconds.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.faults.campaign import difference, outcome
from bench.faults.network import Network, why_not
from bench.faults.trial import LIMIT, NAMES, SETTINGS, Trial, undisturbed
from bench.results import REPOSITORY, sets

LONGER = "train.epochs=7"
BEFORE = 12  # steps until the fault


class Told(NamedTuple):
    """What machine 2 is told otherwise, and what the line must name; None: nothing is wrong with it."""

    named: str | None
    settings: tuple[str, ...] = ()


class Fault(NamedTuple):
    """`how`: cut, killed, frozen or slow; for how long; what lines must name, when ranks must have ended."""

    how: str
    machine: int = 2
    seconds: float = math.inf
    named: tuple[str, ...] = ()
    in_time: float = 60
    names: tuple[str, str] = NAMES
    restarts: int = 0


STORE, OTHER = "machine 10.0.0.1, which has the store", "on machine-2) has not answered"
TOLD = {
    "seed": Told("train.seed", ("train.seed=1",)),
    "rate": Told("optim.schedule", ("optim.schedule=[{epoch: 1, weights: 0.02, biases: 0.02}]",)),
    "weight decay": Told("optim.weight_decay", ("optim.weight_decay=0.001",)),
    "norm": Told("model.stages.0.norm1.alpha", ("model.stages.0.norm1.alpha=2e-4",)),
    "batch": Told("train.batch", ("train.batch=32",)),
    "epochs": Told("train.epochs", (LONGER,)),
    "data": Told("training images.pixels"),
    "data elsewhere": Told(None),
    "code": Told("version.code"),
    "out": Told("--out"),
    "separate disks": Told("is not the directory"),
}
FAULTS = {
    "store killed": Fault("killed", 1, named=(STORE,)),
    "store cut off": Fault("cut", 1, named=(STORE, OTHER)),
    "other killed": Fault("killed", 2, named=(OTHER,)),
    "other cut off": Fault("cut", 2, named=(STORE, OTHER)),
    "cut for 5 s": Fault("cut", 2, 5),
    "cut for 8 s, one host name": Fault("cut", 2, 8, names=("machine", "machine")),
    "cut for 25 s, restarts": Fault("cut", 2, 25, restarts=3),
    "disk frozen for 15 s": Fault("frozen", seconds=15),
    "disk frozen": Fault("frozen", named=("disk/run", "the disk does not answer"), in_time=300),
    "slow": Fault("slow"),
}


def told(folder, name, code, unbroken):
    """The second machine is told something else."""
    how = TOLD[name]
    with Network() as network:
        network.boot(*NAMES)
        trial, settings = Trial(network, folder, code), SETTINGS
        trial.out.parent.mkdir(parents=True)
        second = sets(how.settings)
        if name.startswith("data"):
            first, other = arrays(folder, 1), arrays(folder, 2, same=name == "data elsewhere")
            settings, second = [*settings, "--set", "data.name=arrays", "--data", first], ["--data", other]
        elif name == "code":
            trial.codes[1] = changed(code, folder / "code")
        elif name == "out":
            second = ["--out", folder / "disk" / "other"]
        elif name == "separate disks":
            shutil.copytree(unbroken(), trial.out)
            shutil.copytree(trial.out.parent, folder / "own disk")
            network.machines[1].do("mount", "--bind", folder / "own disk", trial.out.parent)
            settings = ["--resume", *sets([LONGER])]
        trial.start(*settings, second=second)
        found = trial.watch() | {"said": trial.said()}
    if how.named is None:
        return found | {"right": found["statuses"] == [0, 0]}
    line = found["said"][0] if len(found["said"]) == 1 else ""
    both = name == "separate disks" or all(machine in line for machine in NAMES)
    return found | {"right": found["statuses"] == [2, 2] and how.named in line and both}


def broken(folder, name, code, unbroken):
    """Something fails in mid-run."""
    fault, expected = FAULTS[name], outcome(unbroken())
    with Network() as network:
        trial = Trial(network, folder, code, fault.restarts)
        trial.out.parent.mkdir(parents=True)
        if fault.how == "frozen":
            network.mount_disk(trial.out.parent)
        network.boot(*fault.names)
        links = [machine.slow() for machine in network.machines] if fault.how == "slow" else []
        trial.start(*SETTINGS)
        trial.wait_for(BEFORE)
        found = trial.watch(fail(network, trial, fault)) | {"said": trial.said(), "starts": 1}
        done = found["statuses"] == [0, 0]
        while not done and found["starts"] < 4:
            network.boot(*fault.names)
            trial.start("--resume")
            done, found["starts"] = trial.watch()["statuses"] == [0, 0], found["starts"] + 1
        same = done and difference(outcome(network.switch.seen(trial.out)), expected) == 0
    found |= {"bit for bit": same, "links": links}
    return found | {"right": same and as_promised(fault, found)}


def as_promised(fault, found):
    """Whether a start ended as the fault says: with lines and in time, or not at all."""
    if not fault.named:
        return found["starts"] == 1 or fault.restarts > 0
    ended = found["seconds until"]["ranks"]
    in_time = all(seconds is not None and seconds < fault.in_time for seconds in ended)
    return in_time and all(any(part in line for line in found["said"]) for part in fault.named)


def fail(network, trial, fault):
    """The fault happens. Returns: what mends it, for Trial.watch."""
    machine, broken = network.machines[fault.machine - 1], fault.how in ("cut", "frozen")
    if fault.how == "killed":
        machine.kill()
    elif fault.how == "cut":
        machine.link("down")
    elif fault.how == "frozen":
        network.freeze(trial.out.parent)

    def mend(seconds, said):
        nonlocal broken
        if broken and (seconds > fault.seconds or fault.how == "frozen" and (said or seconds > LIMIT - 60)):
            machine.link("up")
            network.thaw()
            broken = False

    return mend


def arrays(folder, number, same=False):
    """A directory of 512 images of noise, always with the same labels."""
    (place := folder / f"data-{number}").mkdir()
    draw = np.random.default_rng(1 if same else number)
    for part, count in {"train": 512, "test": 64}.items():
        np.save(place / f"{part}_images.npy", draw.integers(0, 256, (count, 28, 28, 1), np.uint8))
        np.save(place / f"{part}_labels.npy", np.arange(count) % 10)
    return place


def changed(code, copy):
    """Another version of the code: one line more."""
    for part in ("alexnet2gpu", "launch", "configs"):
        shutil.copytree(code / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / "alexnet2gpu" / "model" / "optim.py", "a") as module:
        module.write("CHANGED = True\n")
    return copy


def run(folder, names=(*TOLD, *FAULTS), code=REPOSITORY):
    """Scenario -> what came of it, in the words of `Trial.watch`, and whether that is right.
    Raises: RuntimeError where there can be no machines."""
    if problem := why_not():
        raise RuntimeError(f"two machines on this one: {problem}")
    found, made = {}, []

    def unbroken():
        if not made:
            made.append(undisturbed(folder / "unbroken", code))
        return made[0]

    for name in names:
        (own := folder / name.replace(",", "").replace(" ", "-")).mkdir(parents=True)
        found[name] = (told if name in TOLD else broken)(own, name, code, unbroken)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=" | ".join([*TOLD, *FAULTS]))
    parser.add_argument("--code", type=Path, default=REPOSITORY, help="a checkout; default: this one")
    args = parser.parse_args()
    if unknown := [name for name in args.scenarios if name not in {**TOLD, **FAULTS}]:
        parser.error(f"{unknown[0]}: choose from {' | '.join([*TOLD, *FAULTS])}")
    if problem := why_not():
        sys.exit(f"error: two machines on this one: {problem}")
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), args.scenarios or [*TOLD, *FAULTS], args.code.resolve())
    sys.exit(not all(scenario["right"] for scenario in found.values()))


if __name__ == "__main__":
    main()
