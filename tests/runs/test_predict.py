"""If these fail, what a network says of a photograph is not what it has learned, or names another class.

The network is trained for a few steps on photographs of three classes, each of a colour, by two towers: four
outputs, of which the last stands for no class.
"""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import metrics, program, train
from PIL import Image
from scenes import scene, write

import alexnet2gpu
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.runs.checkpoints.export import describe
from alexnet2gpu.runs.evaluate import find_saved

NAMES = ["ant", "bee", "cat"]
SETTINGS = ["data.name=folder", "data.size=32", "data.crop=28", "model.input=[3,28,28]", "train.batch=6"]
SETTINGS += ["train.epochs=15", "optim.schedule=[{epoch: 1, weights: 0.002, biases: 0.004}]"]


def tinted(file, number, seed):
    """A scene in the colour of a class."""
    pixels = scene(40, 34, seed) // 4
    pixels[:, :, number] += 150
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photographs/CLASS/*, and run/, trained on four fifths of them."""
    folder = tmp_path_factory.mktemp("predict")
    for number, name in enumerate(NAMES):
        for i in range(10):
            tinted(folder / "photographs" / name / f"{i}.png", number, 10 * number + i)
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    train(*settings, "--data", folder / "photographs", "--out", folder / "run")
    return folder


def test_classes_come_from_the_folder_and_are_in_the_run(folder):
    network = alexnet2gpu.load(folder / "run")
    assert network.classes == NAMES
    assert network(torch.zeros(1, 3, 28, 28)).shape == (1, 4)  # a multiple of the towers
    saved = find_saved(folder / "run")
    assert saved.config.data.classes == 3 and saved.config.model.last.out == 4
    assert json.loads((folder / "run" / "task.json").read_text())["names"] == NAMES
    images, _ = load_images(saved.config.data, saved.config.model)
    mean = np.load(folder / "run" / "mean.npy")
    assert np.array_equal(mean, images.mean_image()) and np.array_equal(mean, saved.learned.mean)
    assert list(metrics(folder / "run", "top1_error").values())[-1] == 0
    assert not metrics(folder / "run", "top5_error")  # of three classes


@pytest.mark.parametrize("views", [1, 10])
def test_predictions_are_those_of_plain_code(folder, views):
    """Of photographs that lie anywhere, without those of training."""
    network = alexnet2gpu.load(folder / "run")
    files = [folder / "photographs" / name / "7.png" for name in NAMES]
    mean = np.load(folder / "run" / "mean.npy")[2:30, 2:30]
    places = [(2, 2)] if views == 1 else [(2, 2), (0, 0), (0, 4), (4, 0), (4, 4)]
    for file, name, said in zip(files, NAMES, network.predict(files, views=views)):
        image = Image.open(file)
        pixels = np.asarray(image.resize((32, 32), Image.LANCZOS, (3, 0, 37, 34))).astype(np.float32)
        crops = [pixels[top : top + 28, left : left + 28] for top, left in places]
        crops += [crop[:, ::-1] for crop in crops] * (views == 10)
        x = torch.from_numpy(np.stack(crops) - mean).permute(0, 3, 1, 2)
        with torch.no_grad():
            expected = network.eval()(x)[:, :3].softmax(1).mean(0).numpy()
        order = np.argsort(-expected)
        assert [label for label, _ in said] == [NAMES[at] for at in order] and said[0][0] == name
        assert np.allclose([share for _, share in said], expected[order], atol=1e-5)


def test_an_output_without_a_class_is_no_answer(folder, tmp_path):
    network = alexnet2gpu.load(folder / "run")
    with torch.no_grad():
        network.get_submodule("towers.1.fc8").bias[1] = 1000
    (best,) = network.predict(folder / "photographs" / "bee" / "0.png")
    assert [name for name, _ in best][0] == "bee" and sum(share for _, share in best) == pytest.approx(1)


def test_a_network_may_be_of_another_type_and_gets_no_photographs(folder):
    network, file = alexnet2gpu.load(folder / "run"), folder / "photographs" / "cat" / "1.png"
    (expected,) = network.predict(file)
    for other, off in ((network.double(), 1e-5), (network.bfloat16(), 0.05)):
        (found,) = other.predict(file)
        assert found[0][0] == "cat" and found[0][1] == pytest.approx(expected[0][1], abs=off)
    assert network.predict([]) == []
    with pytest.raises(ValueError, match="views is 5: should be 1 or 10"):
        network.predict(file, views=5)


def predict(*arguments):
    program("predict").main([str(argument) for argument in arguments])


def test_the_program_prints_a_table_or_json_and_draws(folder, capsys, tmp_path):
    files = [folder / "photographs" / name / "3.png" for name in NAMES[:2]]
    predict(folder / "run", *files)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(files[0]) and lines[4] == str(files[1]) and len(lines) == 8
    assert lines[1].split()[1] == "ant" and lines[5].split()[1] == "bee"
    drawn = ["--out", tmp_path / "answers.png"] if pytest.importorskip("matplotlib") else []
    predict(folder / "run", *files, "--json", "--views", 10, *drawn)
    said = json.loads(capsys.readouterr().out)
    assert [entry["classes"][0]["class"] for entry in said] == ["ant", "bee"]
    assert sum(answer["probability"] for answer in said[0]["classes"]) == pytest.approx(1)
    assert Image.open(tmp_path / "answers.png").width > 300


def test_images_of_another_size_are_one_clear_sentence(folder):
    for network in (alexnet2gpu.load(folder / "run"), alexnet2gpu.load("configs/quick.yaml")):
        with pytest.raises(
            ValueError, match=r"images are \(2, 3, 32, 32\), and the network reads \(B, ., 28, 28\)"
        ):
            network(torch.zeros(2, 3, 32, 32))


def evaluate(*arguments):
    program("evaluate").main([str(argument) for argument in arguments])


@pytest.mark.parametrize("top", ["", "test/"])
def test_other_photographs_are_evaluated_by_the_names_of_their_classes(top, folder, capsys, tmp_path):
    """One class is lacking, so the numbers are others; all of them count."""
    for number, name in enumerate(NAMES):
        for i in range(2 * (name != "ant")):
            tinted(tmp_path / f"{top}{name}" / f"{i}.png", number, 100 + i)
    evaluate(folder / "run", "--data", tmp_path)
    assert "top-1 error 0.00%, loss" in capsys.readouterr().out
    (tmp_path / f"{top}cat").rename(tmp_path / f"{top}zebra")
    for pack in tmp_path.glob("pack*"):
        shutil.rmtree(pack)
    with pytest.raises(SystemExit):
        evaluate(folder / "run", "--data", tmp_path)
    assert "images of a class 'zebra', which the network has not learned" in capsys.readouterr().err


def test_a_folder_that_has_changed_is_not_tested_on_in_silence(folder, capsys, tmp_path):
    """It has photographs that the network was trained on; nor one whose classes do not fit each other."""
    other = shutil.copytree(folder / "photographs", tmp_path / "photographs")
    tinted(other / "bee" / "new.png", 1, 7)
    with pytest.raises(SystemExit):
        evaluate(folder / "run", "--data", other)
    assert "has changed since it was packed" in capsys.readouterr().err


def test_photographs_to_test_are_packed_once_and_the_pack_will_do(folder, capsys, tmp_path):
    """Of one class; they may be gone then."""
    tinted(tmp_path / "test" / "cat" / "1.png", 2, 5)
    evaluate(folder / "run", "--data", tmp_path)
    shutil.rmtree(tmp_path / "test")
    evaluate(folder / "run", "--data", tmp_path)
    evaluate(folder / "run", "--data", tmp_path / "pack-test-raw-32")
    printed = capsys.readouterr()
    assert printed.out.count("1 images, 1 view: top-1 error 0.00%") == 3 and "are gone" in printed.out


def test_the_photographs_that_were_held_out_are_evaluated(folder, capsys):
    evaluate(folder / "run", "--out", folder / "found.json")
    assert "rounded up, is held out to test on" in capsys.readouterr().out
    assert json.loads((folder / "found.json").read_text())["images"] == 6


def test_a_run_whose_classes_were_renamed_does_not_go_on(folder, capsys, tmp_path):
    other = shutil.copytree(folder / "photographs", tmp_path / "photographs")
    shutil.rmtree(other / "pack-raw-32")
    (other / "bee").rename(other / "wasp")
    (other / "cat").rename(other / "bee")
    (other / "wasp").rename(other / "cat")
    (other / "cat").rename(other / "cow")
    run = shutil.copytree(folder / "run", tmp_path / "run", symlinks=True)
    with pytest.raises(SystemExit):
        train("--data", other, "--out", run, "--resume")
    assert "class 2 of the training images is 'cow', was 'cat'" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["onnx", "safetensors", "pt"])
def test_an_export_is_enough_to_say_what_a_photograph_shows(ending, folder, tmp_path):
    """Classes and mean image are in the file; of .onnx the network is, too."""
    file = tmp_path / f"network.{ending}"
    if ending == "onnx":
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
    elif ending == "safetensors":
        safe_open = pytest.importorskip("safetensors").safe_open
    program("export").main([str(folder / "run"), "--out", str(file)])
    if ending == "onnx":
        session = runtime.InferenceSession(file)
        about = session.get_modelmeta().custom_metadata_map
    elif ending == "safetensors":
        with safe_open(file, "pt") as opened:
            about = opened.metadata()
    else:
        about = torch.load(file, weights_only=True)._metadata[""]
    assert json.loads(about["classes"]) == NAMES and "data:" in about["config"]
    mean = np.load(io.BytesIO(base64.b64decode(about["mean"])))
    assert np.array_equal(mean, np.load(folder / "run" / "mean.npy")[2:30, 2:30])
    assert about["listing"].startswith("sha256 ") and "28x28 pixels in the middle" in about["preparation"]
    if ending == "onnx":
        image = Image.open(folder / "photographs" / "cat" / "2.png")
        pixels = np.asarray(image.resize((32, 32), Image.LANCZOS, (3, 0, 37, 34)))[2:30, 2:30]
        x = (pixels.astype(np.float32) - mean).transpose(2, 0, 1)[None]
        logits = session.run(None, {"images": x})[0][0, : len(NAMES)]
        assert NAMES[logits.argmax()] == "cat"


def test_what_is_exported_of_an_odd_border_is_the_middle(folder, tmp_path):
    saved = find_saved(folder / "run", overrides=["data.crop=27", "model.input=[3,27,27]"])
    mean = np.load(io.BytesIO(base64.b64decode(describe(saved)["mean"])))
    assert np.array_equal(mean, np.load(folder / "run" / "mean.npy")[2:29, 2:29])


def test_no_photograph_is_drawn_over(folder, capsys, tmp_path):
    tinted(tmp_path / "x.png", 0, 1)
    for out in (tmp_path / "x.png", tmp_path, tmp_path / "x.jpg"):
        with pytest.raises(SystemExit):
            predict(folder / "run", tmp_path / "x.png", "--out", out)
        assert "should be a .png file, and none of the photographs" in capsys.readouterr().err


def test_a_mean_image_that_was_never_found_is_told(folder, capsys, tmp_path):
    settings = [*SETTINGS, "data.mean=none", "train.max_steps=1"]
    options = [part for setting in settings for part in ("--set", setting)]
    train(*options, "--data", folder / "photographs", "--out", tmp_path / "run")
    file = folder / "photographs" / "ant" / "1.png"
    alexnet2gpu.load(tmp_path / "run").predict(file)
    with pytest.raises(ValueError, match="the run has left no mean image"):
        alexnet2gpu.load(tmp_path / "run", overrides=["data.mean=image"]).predict(file)


def test_a_photograph_that_cannot_be_read_is_named(folder, capsys, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no photograph")
    write(tmp_path / "y.png", 3)
    for file, complaint in (
        ("x.jpg", "x.jpg: not an image of a known kind"),
        ("z.png", "z.png: there is no such file"),
        (".", ": a folder, not a"),
    ):
        with pytest.raises(SystemExit) as exit_:
            predict(folder / "run", tmp_path / "y.png", tmp_path / file)
        assert exit_.value.code == 2 and complaint in capsys.readouterr().err
