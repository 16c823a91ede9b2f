"""If these fail, `pip install` without the repository brings no configs, or programs that do not work."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

tomllib = pytest.importorskip("tomllib")  # Python 3.11
SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
INSTALLS = SETTINGS["tool"]["setuptools"]


def test_all_packages_are_installed():
    folders = {file.parent for file in (REPOSITORY / "alexnet2gpu").rglob("*.py")}
    names = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    assert set(INSTALLS["packages"]) == names | set(INSTALLS["package-dir"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What a wheel has, by pyproject.toml, in a folder of its own."""
    site = tmp_path_factory.mktemp("site")
    for name in INSTALLS["packages"]:
        source = REPOSITORY / INSTALLS["package-dir"].get(name, name.replace(".", "/"))
        patterns = ["*.py", *INSTALLS["package-data"].get(name, [])]
        for file in (file for pattern in patterns for file in source.glob(pattern)):
            target = site / name.replace(".", "/") / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return site


def installed(site, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "alexnet2gpu", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.slow
def test_programs_find_their_configs_without_the_repository(site, tmp_path):
    done = installed(site, tmp_path, "summary", "--config", "configs/lenet.yaml")
    assert done.returncode == 0 and "61,706" in done.stdout, done.stderr
    done = installed(site, tmp_path, "train", "--set", "train.max_steps=1")
    assert done.returncode == 0 and "after 1 steps" in done.stdout, done.stderr
    assert (tmp_path / "runs" / "quick-single" / "task.json").exists()


def test_a_program_that_is_not_there_is_told_with_those_that_are(site, tmp_path):
    done = installed(site, tmp_path, "trian")
    assert done.returncode == 2 and done.stderr.startswith("error: no program 'trian': there are diagnose,")
    done = installed(site, tmp_path, "--help")
    assert done.returncode == 0 and "predict" in done.stdout


@pytest.mark.parametrize("program", ["train", "memory", "evaluate", "predict", "summary"])
def test_help_needs_no_package(program):
    """-S: none that is installed is found."""
    command = [sys.executable, "-S", REPOSITORY / "launch" / f"{program}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr
