"""If these fail, a stranger's first command does not work as the README has it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, metrics

README = (REPOSITORY / "README.md").read_text()
COMMANDS = [
    line.strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
LAUNCH = [line.split("#")[0].strip() for line in COMMANDS if "launch/" in line]


def run(command, folder, **environment):
    """A command of the README, with this Python and from `folder`."""
    words = shlex.split(command)
    words[0:1] = {
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
        "python": [sys.executable],
    }[words[0]]
    return subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_readme_has_all_modes():
    flags = {
        " ".join(re.findall(r"--split-model|--ddp", line)) for line in LAUNCH if "train.py" in line
    }
    assert {"", "--split-model", "--ddp", "--split-model --ddp"} <= flags


@pytest.mark.parametrize("command", LAUNCH)
def test_a_command_of_the_readme_works_as_written(command, tmp_path):
    """From the repository, cut short after two steps; data of a user's own are replaced by
    synthetic ones."""
    if "train.py" in command:
        command = re.sub(r"--data \S+", "", command).replace(
            "data.name=arrays", "data.name=synthetic"
        )
        command += f" --set train.max_steps=2 --set train.batch=8 --out {tmp_path / 'run'}"
    done = run(command, REPOSITORY)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    if "train.py" in command:
        assert "test accuracy" in done.stdout and "saved activations" in done.stdout
        assert metrics(tmp_path / "run", "top1_error").keys() == {2}
    else:
        assert "60,965,224" in done.stdout or "757.9" in done.stdout


def test_a_clone_runs_from_another_directory_without_being_installed(tmp_path):
    """A copy of the repository, whose default config says two steps: if another copy is installed,
    it is not used."""
    for name in ("alexnet2gpu", "launch", "configs"):
        shutil.copytree(REPOSITORY / name, tmp_path / "clone" / name)
    quick = tmp_path / "clone" / "configs" / "quick.yaml"
    quick.write_text(
        quick.read_text().replace("train:\n", "train:\n  max_steps: 2\n  log_every: 1\n")
    )
    (tmp_path / "elsewhere").mkdir()
    done = run(
        f"torchrun --standalone --nproc_per_node=2 {tmp_path}/clone/launch/train.py --split-model",
        tmp_path / "elsewhere",
    )
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "elsewhere" / "runs" / "quick-split", "loss").keys() == {1, 2}


def test_a_second_run_gets_a_directory_of_its_own(tmp_path):
    from alexnet2gpu.run import default_folder

    (tmp_path / "quick-split").mkdir()
    (tmp_path / "quick-split-2").mkdir()
    assert default_folder(tmp_path, "quick-split") == tmp_path / "quick-split-3"


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ("--split-model --set model.towers=3", "do not divide by 3 towers"),
        ("", "2 processes but no mode"),
    ],
)
def test_a_mistake_under_torchrun_is_printed_once_and_every_rank_exits_with_2(
    arguments, complaint, tmp_path
):
    """torchrun ends the slower rank as soon as one has failed; here each comes to its own
    conclusion first."""
    done = run(
        f"torchrun --standalone --nproc_per_node=2 {REPOSITORY}/launch/train.py {arguments}",
        tmp_path,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and complaint in lines[0], done.stderr
    assert done.returncode == 1
    assert re.findall(r"exitcode\s*: (-?\d+)", done.stderr).count("2") >= 1
    assert "-15" not in re.findall(r"exitcode\s*: (-?\d+)", done.stderr)


def test_help_lists_the_options():
    done = run("python launch/train.py --help", REPOSITORY)
    assert done.returncode == 0 and all(
        option in done.stdout
        for option in (
            "--config",
            "--split-model",
            "--ddp",
            "--data",
            "--out",
            "--resume",
            "--set",
        )
    )


def test_the_package_says_where_everything_is():
    """The map in the package's docstring names every file, in an order in which imports go upwards
    only."""
    import alexnet2gpu

    package = REPOSITORY / "alexnet2gpu"
    names = {path.name for path in package.glob("*.py")} | {
        f"{path.parent.name}/" for path in package.glob("*/__init__.py")
    }
    assert set(
        re.findall(r"^    (\w+(?:\.py|/)) ", alexnet2gpu.__doc__, re.MULTILINE)
    ) == names - {"__init__.py"}


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "alexnet2gpu").rglob("*.py")), ids=lambda file: file.name
)
def test_files_stay_short(file):
    lines = Path(file).read_text().splitlines()
    assert len(lines) <= 220 and max(map(len, lines), default=0) <= 120
