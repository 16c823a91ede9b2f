"""All that a machine should show, in one command: tests, equality, trainings, speed, memory.

    python -m bench [DIR]

On one GPU, ranks share it through gloo; on several each has its own, through NCCL; without any, all runs on
the CPU, for hours. Prints each figure as it comes and writes its results into bench/results/. With DIR, which
has photographs in train/ and val/ (Caltech-101), also the data pipeline and the recipe of 2012:
docs/results/caltech.
"""

import shlex
import subprocess
import sys
import time

from alexnet2gpu.model.device import gpus
from bench.modes.runs import MODES, NO_DROPOUT, run
from bench.results import REPOSITORY, sets, write

FLOAT64 = ["train.precision=float64", "train.log_every=1", "train.max_steps=50"]
GPU_RECIPE = " --config configs/caltech_full.yaml --steps 1000" * bool(gpus())
ON_PHOTOGRAPHS = [
    "-m bench.data.loader {}",
    "-m bench.data.pack {}",
    "-m bench.fidelity {}" + GPU_RECIPE,
    "-m bench.speed --data {}",
]
COMMANDS = [
    *["-m bench.gpu check", "-m bench.gpu measure"] * bool(gpus()),
    "-m torch.distributed.run --standalone --nproc_per_node=2 -m bench.speed.exchange",
    "-m bench.modes runs --steps 96",
    "-m bench.modes runs --steps 8 --config configs/alexnet.yaml",
    "-m bench.modes runs --steps 8 --config configs/alexnet.yaml --name bfloat16"
    " --set train.precision=bfloat16",
    "-m bench.memory",
    "-m bench.faults --runs 20",
]


def largest_difference(mode, settings):
    """Between the losses of a mode and of one device."""
    logs = [run(each, sets(settings))[0] for each in ("one device", mode)]
    losses = [[line["loss"] for line in log if "loss" in line] for log in logs]
    return max(abs(ours - theirs) for ours, theirs in zip(*losses))


def trainings():
    """The default network in every mode: accuracy, and seconds with start and evaluation."""
    results = {}
    for mode in MODES:
        start = time.perf_counter()
        lines, memory = run(mode, [])
        accuracy = 1 - lines[-1]["top1_error"]
        seconds = time.perf_counter() - start
        print(f"{mode}: test accuracy {accuracy:.2%} in {seconds:.0f} s")
        results[mode] = {"accuracy": accuracy, "seconds": seconds, "memory": memory}
    return results


def main():
    tests = [sys.executable, "-m", "pytest", "-q", str(REPOSITORY / "tests")]
    tested = subprocess.run(tests, capture_output=True, text=True)
    summary = tested.stdout.splitlines()[-1]
    print(f"tests: {summary}")
    differences = {"split, 2 ranks, dropout on": largest_difference("split, 2 ranks", FLOAT64)}
    for mode in list(MODES)[1:]:
        differences[f"{mode}, dropout off"] = largest_difference(mode, FLOAT64 + NO_DROPOUT)
    for name, difference in differences.items():
        print(f"{name}: largest difference in loss from one device, 50 steps: {difference:.2e}")
    write("everything", tests=summary, differences=differences, trainings=trainings())
    failed = ["tests"] if tested.returncode else []
    first = [command.format(shlex.quote(folder)) for folder in sys.argv[1:2] for command in ON_PHOTOGRAPHS]
    for command in [*(first or ["-m bench.speed"]), *COMMANDS]:
        if subprocess.run([sys.executable, *shlex.split(command)], cwd=REPOSITORY).returncode:
            failed.append(command)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
