"""What `train` does: a whole training on one device; one that is split, until time is up; their errors."""

import json
import time
from pathlib import Path

from alexnet2gpu.data.pack.layout import is_pack, pack_of
from alexnet2gpu.figures.page import has_matplotlib
from alexnet2gpu.runs.metrics import read_metrics
from bench.gpu import check
from bench.gpu.cases import DRY
from bench.gpu.items import Item, holds, noted
from bench.gpu.programs import Started, last_line
from bench.results import sets, steps_of

RESERVE = 100  # seconds, at the end, to evaluate and to draw
SHARE = 0.6  # of the time for trainings, that one device may take
CROPS = ["data.crop=24", "model.input=[1,24,24]", "train.max_steps=40", "train.log_every=5"]
SHORT = ["train.batch=8", "train.max_steps=4", "train.log_every=1"]  # of photographs, without a GPU
KEPT = ("config.yaml", "metrics.jsonl", "memory.json")
MODES = {"one device": (1, []), "split": (2, ["--split-model"])}


def items(photographs, work, end):
    """Args: a directory of photographs, or None; one to work in; when to end, by time.time()."""
    if photographs is None:
        settings, pack = ["--config", "configs/quick.yaml", *sets(CROPS)], None
    else:
        pack = pack_to_be(photographs, work)
        settings = ["--config", "configs/caltech_full.yaml", "--data", pack, *sets(SHORT if DRY else [])]
    most = max(60, end - time.time())
    made = [Item("versions", check.versions)]
    if pack is not None and not is_pack(pack):
        made.append(Item("pack", make_pack, (photographs, pack), seconds=most / 2))
    made += [Item(f"train: {mode}", train, (mode, settings, work, end), seconds=most) for mode in MODES]
    made += [Item(f"evaluate: {n} view{'s' * (n > 1)}", evaluate, (n, work), seconds=60) for n in (1, 10)]
    return [*made, Item("figures", figures, (work,), seconds=60)]


def pack_to_be(photographs, work):
    """The pack that is there, or one in the directory to work in: the photographs' may be read only."""
    there = [path for path in (photographs, pack_of(photographs, "raw", 256)) if is_pack(path)]
    return there[0] if there else work / "pack"


def make_pack(photographs, pack):
    start = time.perf_counter()
    status, said, wrong = Started("pack", "--data", photographs, "--out", pack).end()
    figures = {"seconds": round(time.perf_counter() - start, 1), "said": last_line(wrong if status else said)}
    return holds({"it is packed": status == 0}, figures)


def train(mode, settings, work, end):
    """Until it has done all its epochs, or its time is up. The loss has to fall."""
    if "--data" in settings and not is_pack(settings[settings.index("--data") + 1]):
        return noted({}, "there is no pack")
    ranks, flags = MODES[mode]
    run, start = folder_of(work, mode), time.time()
    left = end - RESERVE - start
    if left < 5 and not DRY:
        return noted({}, "left out: no time")
    left = max(5, left * (SHARE if mode == "one device" else 1)) if not DRY else 120
    status, said, wrong = Started("train", *settings, *flags, "--out", run, ranks=ranks).end(left)
    lines = list(read_metrics(run / "metrics.jsonl"))
    losses = [line["loss"] for line in lines if "loss" in line]
    speeds = sorted(line["images_per_second"] for line in lines if "loss" in line)
    evaluated = [line for line in lines if "top1_error" in line]
    ended = status == 0 or "which is saved" in said
    statements = {"it ends well": ended, "the loss falls": len(losses) > 1 and losses[-1] < losses[0]}
    found = {
        "seconds": round(time.time() - start, 1),
        "steps": steps_of(run),
        "whole": status == 0,
        "images_per_second": speeds[len(speeds) // 2] if speeds else None,
        "losses": [losses[0], losses[-1]] if losses else None,
        "evaluated": evaluated[-1] if evaluated else None,
    }
    files = {f"{run.name}/{name}": (run / name).read_bytes() for name in KEPT if (run / name).exists()}
    return holds(statements, found if ended else found | {"said": last_line(wrong)}) | {"files": files}


def folder_of(work, mode):
    return work / mode.replace(" ", "-")


def evaluate(views, work):
    """Both networks by themselves, the errors of so many views of each image."""
    runs = [folder_of(work, mode) for mode in MODES if (folder_of(work, mode) / "checkpoints").exists()]
    if not runs:
        return noted({}, "there is no checkpoint")
    file = Path(work, f"views-{views}.json")
    status, _, wrong = Started("evaluate", *runs, "--views", views, "--out", file).end()
    if status:
        return holds({"it ends well": False}, {"said": last_line(wrong)})
    networks = json.loads(file.read_text())["networks"]
    return holds({"it ends well": True}, {run.name: each["alone"] for run, each in zip(runs, networks)})


def figures(work):
    """Curves of both, and what the first has learned."""
    if not has_matplotlib():
        return noted({}, "needs matplotlib")
    runs = [folder_of(work, mode) for mode in MODES if folder_of(work, mode).exists()]
    out = work / "figures"
    status, _, wrong = Started("figures", *runs, "--out", out).end()
    files = {f"figures/{file.name}": file.read_bytes() for file in sorted(out.glob("*.png"))}
    found = {"drawn": len(files), "said": last_line(wrong) if status else "all"}
    return holds({"they are drawn": status == 0}, found) | {"files": files}
