"""The programs of launch/, as a user starts them: stopped, resumed, evaluated; and two ends in one line."""

import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from alexnet2gpu.runs.metrics import read_metrics
from bench.gpu.cases import DRY
from bench.gpu.items import holds, noted
from bench.processes import without_ranks
from bench.results import REPOSITORY, launch, sets, steps_of

QUICK = ["--config", "configs/quick.yaml"]
KEPT_FREE = 3 * 2**30  # bytes of the GPU, for what cannot fit


class Started:
    """A program of launch/, which may be stopped; `end` waits for it. Returns: status, stdout, stderr."""

    def __init__(self, program, *arguments, ranks=1):
        self.out, self.err = (tempfile.TemporaryFile("w+") for _ in range(2))
        command = launch(program, *arguments, ranks=ranks)
        pipes = {"stdout": self.out, "stderr": self.err, "text": True}
        self.process = subprocess.Popen(command, cwd=REPOSITORY, env=without_ranks(), **pipes)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)

    def end(self, seconds=None):
        """Told to stop after so many seconds; then it has 60 to save."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait(), self._read(self.out), self._read(self.err)

    def _read(self, file):
        file.seek(0)
        return file.read()


def last_line(text):
    """Of what a program has said, for a report of its failure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return ([*errors, *lines[-1:]] or ["it said nothing"])[0][:300]


def stop_and_resume():
    """The split, stopped by SIGTERM after some 15 steps, then 15 more on one device; evaluated."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        many = sets(["train.log_every=1", "train.epochs=10000"])
        first = Started("train", *QUICK, "--split-model", *many, "--out", run, ranks=2)
        until = time.monotonic() + 60
        while steps_of(run) < 15 and first.process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        first.stop()
        status, said, wrong = first.end()
        stopped = re.search(r"stopped after step (\d+)", said)
        if not stopped:
            return holds({"the split stops and saves": False}, {"status": status, "said": last_line(wrong)})
        last = int(stopped[1]) + 15
        resumed = Started("train", "--out", run, "--resume", *sets([f"train.max_steps={last}"])).end()
        figures = Path(folder, "figures.json")
        evaluated = Started("evaluate", run, "--out", figures).end()
        logged = [line for line in read_metrics(run / "metrics.jsonl") if "top1_error" in line]
        found = re.search(r"top-1 error ([\d.]+)%", evaluated[1])
        statements = {
            "the split stops and saves": True,
            "one device goes on from there": resumed[0] == 0 and f"after {last} steps" in resumed[1],
            "both end with the same error": bool(
                found and logged and abs(float(found[1]) - 100 * logged[-1]["top1_error"]) < 0.2
            ),
        }
        wrong = last_line(resumed[2] if resumed[0] else evaluated[2])
        seen = {"stopped at": int(stopped[1]), "ended at": steps_of(run), "said": wrong}
        return holds(statements, seen | {"top-1 error, %": float(found[1]) if found else None})


def one_line(*arguments, word=""):
    """A run that has to fail: one line `error: ...` with a `word` in it, and no traceback."""
    with tempfile.TemporaryDirectory() as folder:
        status, _, said = Started("train", *arguments, "--out", Path(folder, "run")).end()
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    statements = {
        "it fails": status != 0,
        "in one line": len(errors) == 1 and "Traceback" not in said,
        f"which says {word!r}": any(word in line for line in errors),
    }
    return holds(statements, {"status": status, "said": last_line(said)})


def not_a_number():
    """Rates far too high."""
    rates = "optim.schedule=[{epoch: 1, weights: 1e9, biases: 1e9}]"
    return one_line(*QUICK, *sets([rates, "train.max_steps=40", "train.log_every=5"]), word="not finite")


def out_of_memory():
    """A batch of 512 on a GPU of which others have all but 3 GiB."""
    if DRY:
        return noted({}, "needs a GPU")
    free, _ = torch.cuda.mem_get_info()
    others = torch.empty(max(0, free - KEPT_FREE), dtype=torch.uint8, device="cuda")
    noise = sets(["data.name=synthetic", "train.batch=512", "train.max_steps=2"])
    found = one_line("--config", "configs/alexnet.yaml", *noise, word="memory")
    return found | {"figures": found["figures"] | {"taken beforehand": others.nbytes}}
