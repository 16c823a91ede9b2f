"""Inputs of the readers of checkpoints and metrics, for bench.faults.readers."""

import io
import json
from dataclasses import asdict

import torch

from alexnet2gpu.config.load import REPOSITORY, load_config
from alexnet2gpu.data.sources import load_images
from alexnet2gpu.data.task import learned_of
from alexnet2gpu.faults import files
from alexnet2gpu.runs.checkpoints import format as checkpoints
from alexnet2gpu.runs.checkpoints import resume, towers
from alexnet2gpu.runs.metrics import read_metrics
from bench.faults.changes import change_tree, other_values
from bench.faults.inputs import SMALL, Reader

TENSORS = [
    None,
    lambda shape: torch.zeros(shape, dtype=torch.float64),
    lambda shape: torch.zeros(shape, dtype=torch.float16),
    lambda shape: torch.zeros(shape, dtype=torch.complex64),
    lambda shape: torch.zeros(shape, dtype=torch.int8),
    lambda shape: torch.zeros(shape, dtype=torch.bool),
    lambda shape: torch.zeros(shape).to_sparse(),
    lambda shape: torch.zeros(shape, device="meta"),
    lambda shape: torch.quantize_per_tensor(torch.zeros(shape), 0.1, 0, torch.qint8),
    lambda shape: torch.full(shape, float("nan")),
    lambda shape: torch.zeros(1).expand(shape),
    lambda shape: torch.zeros(2 * shape.numel())[::2].view(shape),
    lambda shape: torch.zeros(shape).requires_grad_(),
    lambda shape: torch.nn.Parameter(torch.zeros(shape)),
    lambda shape: torch.zeros(*shape, 1),
    lambda shape: torch.zeros(1).expand(2**20, 2**20),
    lambda shape: torch.zeros(shape).numpy(),
]


class States(Reader):
    """A run with one checkpoint."""

    def make(self):
        self.config = load_config(REPOSITORY / "configs/quick.yaml", [*SMALL, "data.name=synthetic"])
        images, _ = load_images(self.config.data, self.config.model)
        self.task = learned_of(images, self.config.data).task
        self.names = "state.json", "tower-", "step-", "no checkpoint"
        self.place = self.folder / "checkpoints" / "step-00000004"
        self.place.mkdir(parents=True)
        model = towers.load_network(self.config, None)
        sums = {}
        for index in range(2):
            own = {n: p.detach() for n, p in model.named_parameters() if n.startswith(f"towers.{index}.")}
            content = towers.serialised({"weights": own, "velocity": own})
            (self.place / f"tower-{index}.pt").write_bytes(content)
            sums[f"tower-{index}.pt"] = files.checksum(content)
        best = {"step": 4, "top1_error": 0.5}
        evaluation = {"epoch": 1, "test_loss": 1.0, "top1_error": 0.5, "top5_error": 0.0}
        progress = {"step": 4, "recent": [[1.0, 0.5]], "evaluation": evaluation, "best": best}
        about = resume.about(self.config, self.task)
        state = {"format": checkpoints.FORMAT, "progress": progress, **about, "versions": {"torch": "2"}}
        (self.place / "state.json").write_bytes(files.seal({**state, "towers": sums}))

    def targets(self):
        return [self.place / "state.json"]

    def say(self, file, draw):
        tree = files.read_sealed(file)
        change_tree(tree, draw)
        return files.seal(tree)

    def read(self):
        checkpoint = checkpoints.newest_checkpoint(self.folder)
        start = resume.find_start(self.folder, self.config, self.task)
        found = towers.load_towers(checkpoint, self.config.model, range(2))
        towers.restore(found, towers.load_network(self.config, None))
        json.dumps(asdict(start.progress))
        best = start.progress.best
        return (
            "" if isinstance(start.progress.step, int) and (best is None or best.step >= 0) else "no progress"
        )


class Towers(States):
    def targets(self):
        return [self.place / f"tower-{index}.pt" for index in range(2)]

    def say(self, file, draw):
        from hypothesis import strategies as some

        tree = torch.load(io.BytesIO(self.whole[file]))
        part = draw(some.sampled_from(list(tree)))
        name = draw(some.sampled_from(list(tree[part])))
        shape = tree[part][name].shape
        other = draw(some.sampled_from(TENSORS))
        tree[part][name] = draw(other_values()) if other is None else other(shape)
        if draw(some.integers(0, 3)) == 0:
            change_tree(tree, draw)
        content = io.BytesIO()
        torch.save(draw(some.sampled_from([tree, tree, tree, list(tree), None])), content)
        return content.getvalue()

    def put(self, file, content, kind="file"):
        super().put(file, content, kind)
        state = files.read_sealed(self.place / "state.json")
        if kind == "file" and file.suffix == ".pt":
            state["towers"][file.name] = files.checksum(content)
            super().put(self.place / "state.json", files.seal(state))


class Metrics(Reader):
    def make(self):
        line = {"step": 4, "epoch": 1, "loss": 1.0, "lr": 0.1}
        (self.folder / "metrics.jsonl").write_text((json.dumps(line) + "\n") * 3)
        self.names = ("metrics.jsonl",)

    def say(self, file, draw):
        lines = [json.loads(line) for line in self.whole[file].splitlines()]
        change_tree(lines, draw)
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    def read(self):
        for line in read_metrics(self.folder / "metrics.jsonl"):
            if type(line["step"]) is not int or not 0 <= line["step"] < 2**63:
                return f"a step of {line['step']}"
            json.dumps(line)
        return ""
