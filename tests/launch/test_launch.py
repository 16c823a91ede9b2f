"""If these fail, a stranger's first command does not work as the README has it."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, first, metrics, program, train
from PIL import Image

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import traffic
from alexnet2gpu.ranks.names import FLAGS

README = (REPOSITORY / "README.md").read_text()
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]
SHELL = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]
COMMANDS = [line.strip() for block in SHELL for line in block.splitlines()]
SOURCES = sorted([*REPOSITORY.glob("alexnet2gpu/**/*.py"), *REPOSITORY.glob("launch/*.py")])
FILES = {f"/{file.relative_to(REPOSITORY)}" for file in REPOSITORY.glob("**/*.py")}
LAUNCH = [line.split("#")[0].split("&&")[-1].strip() for line in COMMANDS if "launch/" in line]
LAUNCH = [line for line in dict.fromkeys(LAUNCH) if re.match("python|torchrun", line)]
LAUNCH.sort(key=lambda line: not README.startswith(line, README.find("torchrun --standalone")))  # the first


def run(command, folder, **environment):
    """A command of the README, with this Python and from `folder`."""
    words = shlex.split(command)
    words[0:1] = {"torchrun": [sys.executable, "-m", "torch.distributed.run"], "python": [sys.executable]}[
        words[0]
    ]
    return subprocess.run(
        words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )


def test_the_readme_has_all_modes():
    flags = {
        " ".join(re.findall("--split-model|--ddp|--hybrid", line)) for line in LAUNCH if "train.py" in line
    }
    assert set(FLAGS.values()) <= flags


def check_bytes_sent(folder, hybrid=False):
    """In a step of training each rank sent what is computed on paper, forward and backward: of
    alexnet.yaml 21,632 + 4,608 + 2,048 + 2,048 elements an image, and 500 logits forward only."""
    ranks = json.loads((folder / "memory.json").read_text())["ranks"]
    network = load_config(folder / "config.yaml").model
    split = len(ranks[0]["towers"]) < network.towers
    first = network.convolutional - 1 if hybrid else 0
    expected = [way._asdict() for way in traffic(network)[first:]] if split else []
    assert all(rank["sent_per_image"] == expected for rank in ranks)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of photographs, small ones, in place of a user's own."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, name in enumerate(("cat", "dog")):
        (folder / name).mkdir()
        for i in range(6):
            Image.new("RGB", (40, 30), (90 * number, 10 * i, 200)).save(folder / name / f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def runs(photographs, tmp_path_factory):
    """Runs of a step or two in place of those that take minutes, or a week; the first reads crops."""
    out = tmp_path_factory.mktemp("runs")
    crops = ["data.name=synthetic", "data.crop=24", "model.input=[1, 24, 24]"]
    short = ["train.max_steps=2", "train.batch=8"]
    train("--out", out / "quick", *(part for change in crops + short for part in ("--set", change)))
    small = ["--set", "train.batch=2", "--set", "train.max_steps=1"]
    train("--config", "configs/caltech.yaml", "--data", photographs, *small, "--out", out / "caltech")
    return out


@pytest.mark.parametrize("command", first(1, LAUNCH))
def test_a_command_of_the_pages_works_as_written(command, runs, photographs, tmp_path, monkeypatch, capfd):
    """From the repository; training is cut short after two steps, on other photographs. Programs that
    torchrun does not start run in this process, to save time."""
    if "figures.py" in command:
        pytest.importorskip("matplotlib")
    if "export.py" in command:
        pytest.importorskip("onnxscript" if ".onnx" in command else "safetensors")
    command = command.replace("DIR", str(photographs)).replace("PHOTO", str(photographs / "cat" / "1.jpg"))
    command = re.sub(r"--out (\w+\.\w+)", rf"--out {tmp_path}/\1", command)
    command = re.sub(r"runs/(\w+)-split", rf"{runs}/\1", command)
    if "--resume" in command:
        shutil.copytree(runs / "quick", tmp_path / "run", symlinks=True)
    if "train.py" in command or "diagnose.py" in command:
        command += " --set train.batch=8"
    if "--budget" in command:
        command += " --modes single"  # of five
    if "--from" in command and "--data" not in command:
        command += " --set model.input=[1,24,24] --set data.crop=24"
    if "train.py" in command:
        steps = 3 if "--resume" in command else 2
        command += f" --set train.max_steps={steps} --out {tmp_path / 'run'}"
    name = re.search(r"launch/(\w+)\.py", command)[1]
    if command.startswith("torchrun"):
        done = run(command, REPOSITORY)
        assert done.returncode == 0, done.stderr
        out, err = done.stdout, done.stderr
    else:
        monkeypatch.chdir(REPOSITORY)
        assert not program(name).main(shlex.split(command)[2:])
        out, err = capfd.readouterr()
    assert "Warning" not in err, err
    if "train.py" in command:
        assert "saved activations" in out
        assert steps in metrics(tmp_path / "run", "top1_error")
        check_bytes_sent(tmp_path / "run", "--hybrid" in command)
    assert re.search(
        {
            "train": "test accuracy .* after [23] steps",
            "export": r"\w+, \d+\.\d MB",
            "memory": "worst in(.|\n)*backward",
            "plan": "the fastest is hybrid",
            "summary": "60,965,224|757.9",
            "pack": "train: 8 images of 2 classes",
            "diagnose": r"loss at the start \d(.|\n)*(images reach the classifier|warning)",
            "evaluate": "top-1 error",
            "predict": r"\d\d%  (cat|dog)",
            "figures": "filters.png",
        }[name],
        out,
    )


PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_of_the_readme_works_as_written(number, runs, photographs, monkeypatch, capsys):
    code = PYTHON[number].replace("runs/caltech-split", str(runs / "caltech"))
    code = code.replace("photo.jpg", str(photographs / "dog" / "2.jpg"))
    monkeypatch.chdir(REPOSITORY)
    exec(code, {"images": torch.zeros(1, 3, 224, 224)})
    assert re.search(r"backward|\['cat', 'dog'\] \[\[\('", capsys.readouterr().out)


@pytest.mark.slow
def test_a_clone_runs_from_another_directory_without_being_installed(tmp_path):
    """A copy of the repository, whose default config says two steps: if another copy is installed,
    it is not used."""
    for name in ("alexnet2gpu", "launch", "configs"):
        shutil.copytree(REPOSITORY / name, tmp_path / "clone" / name)
    quick = tmp_path / "clone" / "configs" / "quick.yaml"
    quick.write_text(quick.read_text().replace("train:\n", "train:\n  max_steps: 2\n  log_every: 1\n"))
    (tmp_path / "elsewhere").mkdir()
    done = run(
        f"torchrun --standalone --nproc_per_node=2 {tmp_path}/clone/launch/train.py --split-model",
        tmp_path / "elsewhere",
    )
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "elsewhere" / "runs" / "quick-split", "loss").keys() == {1, 2}


@pytest.mark.parametrize(
    "arguments, complaint",
    first(
        1,
        [
            ("--split-model --set model.towers=3", "do not divide by 3 towers"),
            ("", "2 processes but no mode"),
        ],
    ),
)
def test_a_mistake_under_torchrun_is_printed_once_and_every_rank_exits_with_2(arguments, complaint, tmp_path):
    """torchrun ends the slower rank as soon as one has failed; here each comes to its own
    conclusion first."""
    done = run(f"torchrun --standalone --nproc_per_node=2 {REPOSITORY}/launch/train.py {arguments}", tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and complaint in lines[0], done.stderr
    assert done.returncode == 1
    assert set(re.findall(r"exitcode\s*: (-?\d+)", done.stderr)) == {"2"}


def test_help_lists_the_options():
    done = run("python launch/train.py --help", REPOSITORY)
    assert done.returncode == 0 and all(
        option in done.stdout
        for option in ("--config", "--split-model", "--ddp", "--data", "--out", "--resume", "--set")
    )


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_files_stay_readable(file):
    """About 200 lines, functions of a screen; every file that its docstrings name is there."""
    text = file.read_text()
    assert len(text.splitlines()) <= 220
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Module | ast.FunctionDef)]
    for node in nodes[1:]:
        assert node.end_lineno - node.lineno < 50, node.name
    named = re.findall(
        r"(?<![\w/.-])((?:\w+/)*\w+\.py)\b", " ".join(filter(None, map(ast.get_docstring, nodes)))
    )
    there = [{path for path in FILES if path.endswith(f"/{name}")} for name in named]
    assert all(there), [name for name, paths in zip(named, there) if not paths]


def test_the_lesson_is_six_files_of_600_lines():
    """As README promises, by name."""
    lesson = README[README.index("The lesson is six files") :].partition("The package is")[0]
    files = re.findall(r"\]\((alexnet2gpu/\S+\.py)\)", lesson)
    assert len(files) == 6
    assert sum(len((REPOSITORY / file).read_text().splitlines()) for file in files) in range(450, 601)
    assert len((REPOSITORY / "alexnet2gpu/ranks/exchange.py").read_text().splitlines()) <= 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_no_gaps(page):
    """No word that stands for what is still to be written, no table that was not made, and every
    file that it links to or shows."""
    text = page.read_text()
    assert not re.findall(r"@[A-Z]+@|\bTODO\b|^[A-Z]+$", text, re.MULTILINE)
    assert not re.findall(r"<!-- (\w+) -->\s*<!-- end -->", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links and not [link for link in links if not (page.parent / link).exists()]
