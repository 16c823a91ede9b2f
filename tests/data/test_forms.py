"""If these fail, a folder of photographs as people have it is read otherwise than they mean it.

What is expected is written down by hand: which file is of which class, and which part it is in.
"""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from scenes import scene, write

from alexnet2gpu.config.load import load_config
from alexnet2gpu.data.pack import layout, packing
from alexnet2gpu.data.pack.folder import read_folder
from alexnet2gpu.data.pack.layout import Form
from alexnet2gpu.data.pack.photograph import read_photograph
from alexnet2gpu.data.pack.reading import all_to_test, read_photographs
from alexnet2gpu.data.sources import load_images

ANT, BEE = "ant/1.png", "bee/2.png"


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"any")
    return folder


def found(folder, **how):
    read = read_folder(folder, **how)
    parts = {name: list(read.part(name)) for name in ("train", "val") if read.part(name)}
    return read.classes, parts, read.remarks


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_the_folder_to_test_on_may_have_other_names(name, tmp_path):
    fill(tmp_path, f"train/{ANT}", f"train/{BEE}", f"{name}/{BEE}")
    classes, parts, (remark,) = found(tmp_path)
    assert classes == ["ant", "bee"] and parts == {"train": [(ANT, 0), (BEE, 1)], "val": [(BEE, 1)]}
    assert remark == f"no val/: {name}/ is tested on"


@pytest.mark.parametrize("top", ["", "train/"])
def test_a_fifth_is_held_out_where_nothing_is_to_test_on(top, tmp_path):
    """Of 11 three, of 2 one, of 1 none; and of a class the same, whatever other classes there are."""
    counts = {"ant": 11, "bee": 2, "cat": 1}
    fill(tmp_path, *(f"{top}{name}/{i:02}.png" for name, count in counts.items() for i in range(count)))
    (tmp_path / "pack-raw-32.partial").mkdir()  # packs lie beside the classes
    classes, parts, (remark,) = found(tmp_path)
    assert classes == ["ant", "bee", "cat"] and "held out" in remark
    labels = {part: np.bincount([label for _, label in of], minlength=3) for part, of in parts.items()}
    assert labels["val"].tolist() == [3, 1, 0] and labels["train"].tolist() == [8, 1, 1]
    assert len(set(parts["train"]) | set(parts["val"])) == 14
    fill(tmp_path, f"{top}aardvark/1.png")
    again = found(tmp_path)[1]["val"]
    assert again == [(name, label + 1) for name, label in parts["val"]]


def test_a_folder_may_be_to_test_only(tmp_path):
    classes, parts, remarks = found(fill(tmp_path / "a", f"test/{ANT}", f"test/{BEE}"))
    assert (classes, parts, remarks) == (["ant", "bee"], {"val": [(ANT, 0), (BEE, 1)]}, ())
    assert found(fill(tmp_path / "b", ANT, BEE), to_test=True)[1] == {"val": [(ANT, 0), (BEE, 1)]}


def test_those_held_out_are_tested_on_where_the_others_were_trained_on(tmp_path):
    """Else a network would be tested on what it has learned by heart."""
    fill(tmp_path, *(f"{name}/{i}.png" for name in ("ant", "bee") for i in range(5)))
    drawn, _ = read_folder(tmp_path).train.listing()
    form = Form("raw", 8)
    assert not all_to_test(tmp_path, form, drawn)
    assert all_to_test(tmp_path, form, "sha256 of others") and all_to_test(tmp_path, form, None)
    fill(tmp_path / "other", f"train/{ANT}", f"train/{BEE}", f"val/{ANT}")
    assert not all_to_test(tmp_path / "other", form, None)
    assert all_to_test(fill(tmp_path / "one", ANT), form, drawn)  # one class is enough to test


def test_of_a_class_nearly_the_same_are_held_out_when_some_are_added(tmp_path):
    fill(tmp_path, *(f"{name}/{i}.png" for name in ("ant", "bee") for i in range(50)))
    before = set(found(tmp_path)[1]["val"])
    fill(tmp_path, *(f"ant/new-{i}.png" for i in range(5)))
    after = set(found(tmp_path)[1]["val"])
    assert len(before) == 20 and len(after) == 21 and len(before & after) >= 18


def test_what_file_managers_leave_is_no_photograph(tmp_path):
    fill(tmp_path, f"train/{ANT}", f"train/{BEE}", f"val/{ANT}")
    fill(
        tmp_path / "train",
        "ant/@eaDir/1.png/THUMB.jpg",
        "__MACOSX/ant/._1.png",
        "ant/Thumbs.db",
        "ant/._1.png",
    )
    fill(tmp_path / "train", "bee/bee_boxes.txt", ".ipynb_checkpoints/x.png", "ant/desktop.ini")
    classes, parts, _ = found(tmp_path)
    assert classes == ["ant", "bee"] and parts["train"] == [(ANT, 0), (BEE, 1)]


WRAPPED = {
    "classes too deep": (
        ["train/images/ant/1.png", "train/images/bee/1.png", "val/images/ant/1.png"],
        "Move them",
    ),
    "parts too deep": (
        ["x/train/ant/1.png", "x/val/ant/1.png"],
        "x, of folders only: train, val: .*Try --data .*x",
    ),
    "one class": ([f"train/{ANT}", f"val/{ANT}"], "one class only, ant"),
    "nothing": (["train/1.txt"], "train: there are no folders in it"),
    "a class called train": (["train/1.png", "bee/1.png"], "if it is a class, rename it"),
    "flat, not told": (
        [f"train/{ANT}", f"train/{BEE}", "val/1.png"],
        "val: has no folders of classes.*val_labels.txt",
    ),
    "a class of its own": (
        [f"train/{ANT}", f"train/{BEE}", f"val/{BEE}", "val/cat/1.png"],
        "val/cat: there is no such",
    ),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_what_cannot_be_meant_is_told_with_the_way_out(case, tmp_path):
    names, complaint = WRAPPED[case]
    with pytest.raises(ValueError, match=complaint):
        read_folder(fill(tmp_path, *names))


KAGGLE = """ImageId,PredictionString
a,bee 1 2 3 4
b,ant 5 6 7 8 ant 1 2 3 4
c,bee 1 2 3 4
"""
LABELS = {
    "spaces": {"val.txt": "a.JPEG bee\nb.JPEG ant\nc.JPEG bee\n"},
    "tabs, as Tiny ImageNet has them": {
        "val/val_annotations.txt": "a.JPEG\tbee\t0\t9\nb.JPEG\tant\t0\t9\nc.JPEG\tbee\t0\t9\n"
    },
    "commas, as Kaggle has them": {"LOC_val_solution.csv": KAGGLE},
    "numbers": {"truth.txt": "7\n3\n7\n", "map_clsloc.txt": "bee 7 Bee\nant 3 Ant\n"},
    "quoted, with a mark at the beginning": {
        "val.csv": '\ufeff"a.JPEG","bee"\n"b.JPEG","ant"\n"c.JPEG","bee"\n'
    },
    "semicolons": {"val.csv": "a.JPEG;bee\nb.JPEG;ant\nc.JPEG;bee\n"},
    "paths, of other parts too": {
        "all.csv": "FLAT/a.JPEG,bee\nFLAT/b.JPEG,ant\nFLAT/c.JPEG,bee\n"
        "train/a.JPEG,ant\ntrain/b.JPEG,bee\ntrain/c.JPEG,ant\n"
    },
    "numbers beside lines": {  # that are sorted, and tell another story
        "truth.txt": "1\n2\n1\n",
        "a_list.txt": "ant Ant\nbee Bee\n",
        "map_clsloc.txt": "bee 1 Bee\nant 2 Ant\n",
    },
    "numbers of lines": {"devkit/data/truth.txt": "1\n2\n1\n", "devkit/data/synsets.txt": "bee\nant\n"},
}


@pytest.mark.parametrize("flat", ["val", "val/images"])
@pytest.mark.parametrize("case", LABELS)
def test_a_file_tells_of_which_class_flat_photographs_are(case, flat, tmp_path):
    fill(tmp_path, f"train/{ANT}", f"train/{BEE}", *(f"{flat}/{name}.JPEG" for name in "abc"))
    for name, text in LABELS[case].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace("FLAT", flat))
    _, parts, (remark,) = found(tmp_path)
    assert parts["val"] == [("b.JPEG", 0), ("a.JPEG", 1), ("c.JPEG", 1)]
    assert "classes are from" in remark


def test_a_photograph_without_a_line_is_named(tmp_path):
    fill(tmp_path, f"train/{ANT}", f"train/{BEE}", "val/a.png", "val/b.png", "val/c.png")
    for lines in ("", "c.png wasp\n", "c.png ant\nc.png bee\n"):
        (tmp_path / "val.txt").write_text("a.png ant\nb.png bee\n" + lines)
        with pytest.raises(ValueError, match="val.txt says of no class of train/ that c.png is of it"):
            read_folder(tmp_path)


def test_a_folder_that_has_changed_since_it_was_packed_is_told(no_processes, tmp_path):
    for i in range(6):
        for name in ("ant", "bee"):
            write(tmp_path / name / f"{i}.png", i)
    form, asked = Form("raw", 8), []
    first, _ = read_photographs(tmp_path, form, asked.append)
    assert asked == [["ant", "bee"]] and len(first) == 8
    again, _ = read_photographs(tmp_path, form, asked.append)
    assert again.listing == first.listing and len(asked) == 1
    write(tmp_path / "cat" / "1.png", 1)
    with pytest.raises(
        ValueError, match="8 photographs of 2 classes then, 9 of 3 now: delete .*pack-raw-8 to"
    ):
        read_photographs(tmp_path, form, asked.append)
    for name in ("ant", "bee", "cat"):
        (tmp_path / name).rename(tmp_path / f".{name}")
    gone, _ = read_photographs(tmp_path, form, asked.append)
    assert "are gone" in gone.remarks[0] and gone.listing == first.listing


def turned(file, *bad):
    """A photograph of (20, 40), red above and blue below once it is turned as EXIF says (6), and bad tags."""
    table = [struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), *bad]
    tags = struct.pack("<H", len(table)) + b"".join(sorted(table)) + bytes(4)
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20, 0] = pixels[:, 20:, 2] = 255
    Image.fromarray(pixels).save(
        file, "JPEG", quality=95, exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + tags
    )


BAD = {
    "a pointer into nothing": struct.pack("<HHII", 0x8769, 4, 1, 65000),
    "a negative number": struct.pack("<HHIi", 0x0131, 9, 1, -5),
    "a float for a text": struct.pack("<HHIf", 0x0132, 11, 1, 1.5),
    "an unknown type": struct.pack("<HHII", 0x0131, 77, 1, 1),
    "a value beyond the end": struct.pack("<HHII", 0x010F, 2, 40, 60000),
}


@pytest.mark.parametrize("tag", BAD)
def test_a_bad_tag_does_not_keep_a_photograph_from_being_turned(tag, tmp_path):
    turned(tmp_path / "x.jpg", BAD[tag])
    pixels = read_photograph(tmp_path / "x.jpg", (8, 8, 3)).astype(int)
    assert pixels[1, 4, 0] > 200 > 60 > pixels[1, 4, 2] and pixels[6, 4, 2] > 200 > 60 > pixels[6, 4, 0]


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_grey_of_16_bits_is_scaled_alike_in_a_whole_folder(bits, no_processes, capsys, tmp_path):
    """By what the deepest uses; a darker photograph stays darker."""
    ramp = np.linspace(0, 2**bits - 1, 64).reshape(8, 8)
    for name, share in {"ant/bright.png": 1, "bee/dark.png": 0.25}.items():
        for part in ("train", "val"):
            file = tmp_path / part / name
            file.parent.mkdir(parents=True)
            Image.fromarray((ramp * share).astype(np.uint16)).save(file)
    packing.make_pack(tmp_path, tmp_path / "pack", Form("raw", 8))
    images, _ = layout.read_pack(tmp_path / "pack")
    bright, dark = (images.pixels[i, :, :, 0].astype(int) for i in (0, 1))
    assert np.abs(bright - np.linspace(0, 255, 64).reshape(8, 8)).max() <= 1
    assert np.abs(dark - bright / 4).max() <= 1
    assert images.grey_bits == bits and f"uses {bits} of them" in capsys.readouterr().err


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_a_network_of_one_channel_reads_photographs_as_grey(store, no_processes, tmp_path):
    for i in range(4):
        write(tmp_path / "ant" / f"{i}.png", i, (12, 10))
        write(tmp_path / "bee" / f"{i}.png", i + 4, (10, 12))
    settings = [
        "data.name=folder",
        f"data.dir={tmp_path}",
        f"data.store={store}",
        "data.size=28",
        "data.crop=null",
    ]
    config = load_config("configs/quick.yaml", settings)
    images, test = load_images(config.data, config.model)
    assert images.pixels.shape == (6, 28, 28, 1) and len(test) == 2
    file = next(file for file, _ in read_folder(tmp_path).train)
    grey = Image.open(tmp_path / file).convert("L")
    side = min(grey.size)
    left, top = (grey.width - side) / 2, (grey.height - side) / 2
    expected = np.asarray(grey.resize((28, 28), Image.LANCZOS, (left, top, left + side, top + side)))
    assert np.abs(images.pixels[0, :, :, 0].astype(int) - expected).mean() < (1 if store == "raw" else 6)


def test_a_photograph_covers_a_shape_that_is_no_square(tmp_path):
    """(30, 60) for (10, 8): all its height, and of its width the 24 pixels in the middle."""
    pixels = scene(60, 30, 3)
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, "PNG")
    (tmp_path / "x.png").write_bytes(whole.getvalue())
    expected = Image.fromarray(pixels).resize((8, 10), Image.LANCZOS, (18, 0, 42, 30))
    assert np.array_equal(read_photograph(tmp_path / "x.png", (10, 8, 3)), np.asarray(expected))


def test_a_class_of_which_nothing_could_be_read_is_named(no_processes, capsys, tmp_path):
    for i in range(2):
        write(tmp_path / "train" / "ant" / f"{i}.png", i)
        fill(tmp_path, f"train/bee/{i}.png")
    write(tmp_path / "val" / "ant" / "1.png", 1)
    packing.make_pack(tmp_path, tmp_path / "pack", Form("raw", 8))
    assert "train/: of these classes nothing could be read: bee" in capsys.readouterr().err
