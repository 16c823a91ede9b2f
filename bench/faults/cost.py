"""launch/train.py with a clock: what its loop waits for checkpoints, and what it would wait if it
waited for the disk as well."""

import time

from alexnet2gpu.runs import train
from alexnet2gpu.runs.loop import Loop
from bench.results import program_of


class Clocked(Loop):
    """Prints, at its end, the seconds of saving, of saving with the disk, and of all."""

    in_loop = with_disk = 0.0

    def save(self):
        began = time.perf_counter()
        super().save()
        self.in_loop += time.perf_counter() - began
        self.run.writer.wait()
        self.with_disk += time.perf_counter() - began

    def fit(self):
        began = time.perf_counter()
        super().fit()
        self.run.say(f"SPENT {self.in_loop} {self.with_disk} {time.perf_counter() - began}")


if __name__ == "__main__":
    train.Loop = Clocked
    program_of("train").main()
