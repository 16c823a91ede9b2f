"""If these fail, what others read is not the network that was trained."""

import numpy as np
import pytest
import torch
from conftest import program, train

import alexnet2gpu
from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.task import Learned, Task
from alexnet2gpu.runs.checkpoints.export import export
from alexnet2gpu.runs.evaluate import Saved

LEARNED = Learned(Task(2, "", (300, 280, 3), ("ant", "bee"), None, None), None)


def export_py(*arguments):
    program("export").main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    short = ["data.name=synthetic", "train.batch=16", "train.max_steps=3"]
    train("--out", run, *(part for change in short for part in ("--set", change)))
    return run


def expected(trained):
    return alexnet2gpu.load(trained / "config.yaml", trained)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_plain_state_dict_has_all_towers(ending, trained, tmp_path):
    file = tmp_path / f"network.{ending}"
    if ending == "safetensors":
        load_file = pytest.importorskip("safetensors.torch").load_file
    export_py(trained, "--out", file)
    found = torch.load(file, weights_only=True) if ending == "pt" else load_file(file)
    state = expected(trained).state_dict()
    assert found.keys() == state.keys() and {name.split(".")[1] for name in found} == {"0", "1"}
    assert all(torch.equal(found[name], state[name]) for name in state)
    alexnet2gpu.load("configs/quick.yaml").load_state_dict(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["quick", "textbook", "alexnet"])
def test_onnx_computes_the_same_logits(name, trained, tmp_path):
    """For any number of images. alexnet.yaml has windows that overhang and a norm within maps."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "network.onnx"
    if name == "quick":
        export_py(trained / "checkpoints" / "best", "--out", file)
        network = expected(trained).eval()
    else:
        export(Saved(load_config(f"configs/{name}.yaml"), None, LEARNED), file)
        network = alexnet2gpu.load(f"configs/{name}.yaml").eval()
    session = onnxruntime.InferenceSession(file)
    for count in (1, 3):
        shape = count, *load_config(f"configs/{name}.yaml").model.input
        images = np.random.default_rng(count).normal(0, 60, shape).astype(np.float32)
        found = session.run(None, {"images": images})[0]
        with torch.no_grad():
            logits = network(torch.from_numpy(images)).numpy()
        assert found.shape == logits.shape
        assert np.abs(found - logits).max() < 1e-5 * np.abs(logits).max()


@pytest.mark.parametrize(
    "out, complaint",
    [
        ("network.bin", "should end in .pt, .safetensors, .onnx"),
        ("there.pt", "is there already: give another"),
        ("nowhere/network.pt", "No such file or directory"),
    ],
)
def test_a_mistake_is_told_in_one_line(out, complaint, trained, tmp_path, capsys):
    (tmp_path / "there.pt").write_text("mine")
    with pytest.raises(SystemExit) as exit_:
        export_py(trained, "--out", tmp_path / out)
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and said.count("\n") == 1 and complaint in said
    assert (tmp_path / "there.pt").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["there.pt"]
