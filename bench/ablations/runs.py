"""Runs: trained by launch/train.py's own main, in processes that stay (bench/processes.py), a row for each.

bench/results/ablations.jsonl has a row a run: what it was, its commit, its processor and a checksum of its
config, and of each epoch the mean loss and error of its steps, the error on what was tested, the seconds of
its steps.
A row counts as long as the config of its job is the same and nothing below model/, data/ or config/ has
changed since its commit.
"""

import contextlib
import hashlib
import json
import statistics
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

from alexnet2gpu.config.load import config_text
from alexnet2gpu.ranks.machine import cores
from alexnet2gpu.ranks.names import FLAGS
from alexnet2gpu.runs.metrics import read_metrics
from bench.ablations.arms import config_of, suites
from bench.ablations.jobs import Job, missing
from bench.processes import Failed, Pool
from bench.results import REPOSITORY, RESULTS, commit, device_name, program_of

FILE = RESULTS / "ablations.jsonl"
ROOMS = "model", "data", "config"  # a change of which makes old rows void
PATIENCE = 3 * 3600  # seconds that a run may take


def checksum(job: Job) -> str:
    """Of the config of a job."""
    suite = suites()[job.suite]
    text = config_text(config_of(suite, suite.arms[job.arm], job.rate, job.seed))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@cache
def same_code(row_commit: str) -> bool:
    """Whether what counts is as it was at that commit. Raises: ValueError if the commit is not known here."""
    paths = [f"alexnet2gpu/{room}" for room in ROOMS]
    command = ["git", "-C", str(REPOSITORY), "diff", "--quiet", row_commit, "HEAD", "--", *paths]
    status = subprocess.run(command, capture_output=True).returncode
    if status > 1:
        raise ValueError(
            f"{row_commit}, of a row, is not in this clone: git fetch --unshallow brings history"
        )
    return status == 0


def rows() -> dict[Job, dict]:
    """Those that count. Raises: ValueError if a line is none."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            job = job_of(row)
        except (ValueError, KeyError):
            raise ValueError(f"{FILE.name}, line {number} is not a whole row: delete it") from None
        arms = suites()[job.suite].arms if job.suite in suites() else {}
        if job.arm in arms and row["config"] == checksum(job) and same_code(row["commit"]):
            found[job] = row
    return found


def job_of(row: dict) -> Job:
    """Whose row it is."""
    return Job(**{name: row[name] for name in Job._fields})


def errors_of(found: dict[Job, dict]) -> dict[Job, float]:
    """By what a rate is chosen: the error at the end of each, or the mean training error where the fastest is
    sought; 1 of a run whose loss was not finite."""

    def error(job, row):
        if row["failed"]:
            return 1.0
        return statistics.mean(row["train_error"]) if suites()[job.suite].fastest else row["test_error"][-1]

    return {job: error(job, row) for job, row in found.items()}


def train(argv: list[str], log: str) -> str:
    """In a process of the pool, what launch/train.py does; returns why it has failed, or ""."""
    with open(log, "w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            program_of("train").main(argv)
        except SystemExit as error:
            if isinstance(error.__context__, FloatingPointError):  # which train.py has reported
                return str(error.__context__)
            if error.code:
                out.flush()
                said = Path(log).read_text()[-500:]
                raise RuntimeError(f"train.py ended with {error.code}: {said}") from None
    return ""


def run(job: Job, pool: Pool, images: Path) -> dict:
    """The row of a job, trained now; without its commit. Raises: Failed."""
    suite = suites()[job.suite]
    arm = suite.arms[job.arm]
    config = config_of(suite, arm, job.rate, job.seed)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "config.yaml"), Path(folder, "run")
        file.write_text(config_text(config))
        argv = ["--config", str(file), "--out", str(out), *FLAGS[job.mode].split()]
        if suite.images:
            variant = job.part + "-centre" * (arm.images == "centre")
            argv += ["--data", str(images / suite.images / variant)]
        ranks = 1 if job.mode == "single" else 2
        failed, *_ = pool(train, ranks, argv, str(Path(folder, "log")), patience=PATIENCE)
        lines = list(read_metrics(out / "metrics.jsonl"))
    steps = [line for line in lines if "loss" in line]
    batch, before = config.train.batch, [0, *(line["step"] for line in steps)]
    seconds = [(s["step"] - first) * batch / s["images_per_second"] for first, s in zip(before, steps)]
    figures = {f"train_{key}": [round(line[key], 5) for line in steps] for key in ("loss", "error")}
    figures["test_error"] = [round(line["top1_error"], 5) for line in lines if "test_loss" in line]
    figures["seconds"] = [round(s, 2) for s in seconds]
    return {
        **job._asdict(),
        "config": checksum(job),
        "device": device_name(),
        "failed": failed[:80],
        **figures,
    }


class Campaign:
    """First runs of a thread each, as many at a time as there are cores, then the others one by one, until
    nothing is missing or until `end`, a time.monotonic()."""

    def __init__(self, images: Path, end: float, only: str | None = None):
        self.images, self.end, self.only = images, end, only
        self.commit = commit()  # of the code that runs, whatever is committed meanwhile
        self.rows, self.lock, self.under_way, self.trouble = rows(), threading.Lock(), set(), None

    def jobs(self, alone: bool):
        """Those still to start, of more than a thread or of one."""
        left = [job for job in missing(errors_of(self.rows)) if job not in self.under_way]
        return [job for job in left if self.only in (None, job.suite) and job.alone == alone]

    def next(self, alone: bool) -> Job | None:
        """One to start, or None."""
        with self.lock:
            left = self.jobs(alone) if time.monotonic() < self.end and not self.trouble else []
            if left:
                self.under_way.add(left[0])
            return left[0] if left else None

    def work(self, alone: bool) -> None:
        """Runs, one after another, while there are any."""
        pool = Pool()
        try:
            while job := self.next(alone):
                begun = time.monotonic()
                row = run(job, pool, self.images) | {"commit": self.commit}
                with self.lock:
                    self.rows[job] = row
                    self.under_way.remove(job)
                    with open(FILE, "a") as opened:
                        opened.write(json.dumps(row) + "\n")
                    left = len(self.jobs(True)) + len(self.jobs(False))
                said = row["failed"] or f"{row['test_error'][-1]:.2%}"
                print(*job, said, f"{time.monotonic() - begun:.0f} s, {left} known to be left", flush=True)
        except Exception as error:  # nobody else sees what a thread raises
            self.trouble = str(error)
        finally:
            pool.close()

    def go(self) -> None:
        """All of it. Raises: Failed if a run has."""
        for alone in (False, True):
            while self.jobs(alone) and time.monotonic() < self.end and not self.trouble:
                count = 1 if alone else cores()
                workers = [threading.Thread(target=self.work, args=(alone,)) for _ in range(count)]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
        if self.trouble:
            raise Failed(self.trouble)

    def stop(self, *_) -> None:
        """No run begins any more. It handles signals: before Python 3.13 a thread whose join() is interrupted
        by an exception is taken for ended."""
        print("stops when what runs has ended", flush=True)
        self.end = 0
