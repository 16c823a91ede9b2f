"""Results: where they come from and go to, tables of them in pages, the commands that make them."""

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

from alexnet2gpu.model.device import gpus
from alexnet2gpu.runs.metrics import read_metrics

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "bench" / "results"


def origin():
    """Where results come from: device, versions, commit, command."""
    program = sys.modules["__main__"].__spec__.name  # of python -m
    words = sys.argv[1:]  # in which a directory of this machine is to be shown as DIR
    words = ["DIR" if Path(word).is_absolute() and Path(word).is_dir() else word for word in words]
    return {
        "device": device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "command": " ".join(["python", "-m", program.removesuffix(".__main__"), *words]),
    }


def commit():
    """Of the repository, and whether it has changed since; unknown where there is no git, or no history."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        compare = [*git, "diff", "--quiet", "HEAD", "--", ".", ":!bench/results", ":!docs"]
        changed = subprocess.run(compare, capture_output=True)
    except OSError:
        return "unknown"
    if found.returncode:
        return "unknown"
    return found.stdout.strip() + "-changed" * bool(changed.returncode)


def steps_of(run):
    """How many steps a run has logged."""
    return max((line["step"] for line in read_metrics(Path(run) / "metrics.jsonl")), default=0)


def device_name():
    """The GPU, or the processor."""
    if gpus():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:(.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    return f"{found[1].strip() if found else platform.processor()}, {os.cpu_count()} cores"


def results_file(name, on_gpu):
    """bench/results/NAME-cpu.json or -gpu.json."""
    return RESULTS / f"{name}-{'gpu' if on_gpu else 'cpu'}.json"


def read_json(file):
    """What a file holds; {} if there is none."""
    return json.loads(file.read_text()) if file.exists() else {}


def write_json(file, found):
    """Write what has been found."""
    file.write_text(json.dumps(found, indent=1) + "\n")


def write(name, **results):
    """Write the file of results of this device, with where they come from."""
    write_json(results_file(name, bool(gpus())), {**origin(), **results})


def table(head, lines):
    """A table of cells in Markdown."""
    lines = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def rewrite(page, texts):
    """The text of the page with each of `texts`, by name, in its place, which is between `<!-- NAME -->` and
    `<!-- end -->`."""
    for name, text in texts.items():
        place = rf"(?s)(<!-- {name} -->\n).*?(<!-- end -->)"
        page, found = re.subn(place, lambda marks: f"{marks[1]}{text}\n{marks[2]}", page)
        assert found == 1, f"{found} places for the table {name}"
    return page


def redraw(file, texts):
    """The same of a page in a file."""
    file.write_text(rewrite(file.read_text(), texts))


def launch(program, *arguments, ranks=1):
    """The command that starts a program of launch/, by its name, or one named as after python -m, on so many
    ranks."""
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    named = ["-m", program] if "." in program else [str(REPOSITORY / "launch" / f"{program}.py")]
    return [*start, *named, *map(str, arguments)]


def program_of(name):
    """A program of launch/ as a new module, found by its path as torchrun finds it."""
    folder = REPOSITORY / "launch"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # where launch/options.py is
    spec = importlib.util.spec_from_file_location(f"launch_{name}", folder / f"{name}.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def sets(settings):
    """Settings as arguments: each after a --set."""
    return [part for setting in settings for part in ("--set", setting)]
