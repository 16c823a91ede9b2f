"""A run on two machines of a network: a torchrun on each, and what is seen of them. For machines.py."""

import os
import re
import sys
import time

from alexnet2gpu.faults.processes import alive
from bench.faults.campaign import SHORT
from bench.faults.network import Network
from bench.faults.victim import children
from bench.results import sets

LIMIT = 600  # seconds that a start may take
NAMES = ("machine-1", "machine-2")
SETTINGS = sets([*SHORT, "train.epochs=6", "train.threads=1"])  # 48 steps


class Trial:
    """A run on the machines of a network: its starts, and what is seen of them."""

    def __init__(self, network, folder, code, restarts=0):
        self.network, self.folder, self.restarts = network, folder, restarts
        self.codes = [code, code]
        self.out = folder / "disk" / "run"

    def start(self, *arguments, second=()):
        """Torchrun on both machines; `second`: arguments that only the second is given."""
        self.logs = [self.folder / f"machine-{number}.log" for number in (1, 2)]
        self.processes, self.ranks = [], [set(), set()]
        for rank, (machine, log, code) in enumerate(zip(self.network.machines, self.logs, self.codes)):
            log.unlink(missing_ok=True)
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
            command += [f"--node_rank={rank}", f"--max-restarts={self.restarts}"]
            command += ["--master_addr=10.0.0.1", "--master_port=29500"]  # of a network of its own
            command += [code / "launch" / "train.py", "--split-model", "--out", self.out]
            environment = {**os.environ, "PYTHONPATH": str(code), "GLOO_SOCKET_IFNAME": "eth0"}
            command += [*arguments, *second * rank]
            self.processes.append(machine.start(map(str, command), log, environment))

    def wait_for(self, steps):
        """Return when so many steps have been logged."""
        metrics = self.network.switch.seen(self.out / "metrics.jsonl")
        while not metrics.exists() or metrics.read_text().count('"loss"') < steps:
            self.living()
            assert all(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.1)

    def said(self):
        """The errors that ranks have printed, on either machine."""
        lines = [line for log in self.logs for line in log.read_text().splitlines()]
        return [line for line in lines if re.match(r"error\b.*: ", line)]

    def living(self):
        """Of each machine: has it a rank that runs."""
        for process, ranks in zip(self.processes, self.ranks):
            for torchrun in children(process.pid):
                ranks.update(children(torchrun))
        return [any(map(alive, ranks)) for ranks in self.ranks]

    def watch(self, mend=lambda seconds, said: None):
        """Wait until all have ended. `mend` is called again and again. Returns: statuses, and seconds from
        now until there was a line, until the last rank of each machine and its torchrun had ended."""
        began, times = time.monotonic(), {"line": None, "ranks": [None, None], "torchrun": [None, None]}
        while None in times["torchrun"] and time.monotonic() - began < LIMIT:
            now = round(time.monotonic() - began, 1)
            if times["line"] is None and self.said():
                times["line"] = now
            mend(now, times["line"] is not None)
            for number, lives in enumerate(self.living()):
                if lives or not self.ranks[number]:
                    times["ranks"][number] = None
                elif times["ranks"][number] is None:
                    times["ranks"][number] = now
                if times["torchrun"][number] is None and self.processes[number].poll() is not None:
                    times["torchrun"][number] = now
            time.sleep(0.1)
        return {"statuses": list(map(self._status, self.processes, self.logs)), "seconds until": times}

    def _status(self, process, log):
        """Of a rank, as torchrun tells it: its own is 1 after any failure."""
        told = re.findall(r"exitcode *: (-?\d+)", log.read_text())
        return int(told[-1]) if told and process.poll() != 0 else process.poll()


def undisturbed(folder, code):
    """A run to which nothing happens."""
    with Network() as network:
        network.boot(*NAMES)
        trial = Trial(network, folder, code)
        trial.out.parent.mkdir(parents=True)
        trial.start(*SETTINGS)
        assert trial.watch()["statuses"] == [0, 0], trial.said()
    return trial.out
