"""Machines on this one: namespaces of the kernel, which root can make. For trial.py and bench.modes.

    with Network() as network:
        network.boot("machine-1", "machine-2")
        process = network.machines[0].start(command, log, environment)

A machine has its own network card, 10.0.0.1, 10.0.0.2, ... on a switch that only they see, and its own
processes, mounts and host name; it sees the files of this machine. It lives as long as its first process, a
`cat` of a pipe that this process holds. However this process ends, the pipe is closed then, and the kernel
ends all processes of the machine and takes its card and its mounts away: there is nothing to clean up, and no
name that could be taken.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from bench.faults.victim import children

OWN = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
NEEDED = ("ip", "mount", "nsenter", "unshare")
CARD = "eth0"


def why_not() -> str:
    """Why there can be no machines here; "" if there can."""
    if os.geteuid():
        return "only root can make network namespaces"
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing:
        return f"{', '.join(missing)} missing: install iproute2 and util-linux"
    command = [*OWN, "ip", "link", "add", "switch", "type", "bridge"]
    tried = subprocess.run(command, capture_output=True, text=True)
    return f"no network namespace can be made: {tried.stderr.strip()}" if tried.returncode else ""


class Room:
    """Namespaces of their own, made by a command, and the process that they live as long as."""

    def __init__(self, command):
        hold = [*command, "sh", "-c", "echo ready; exec cat"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.holder = subprocess.Popen(hold, **pipes, text=True, start_new_session=True)
        if not self.holder.stdout.readline():
            raise RuntimeError(f"{' '.join(command)} failed")
        self.pid = (children(self.holder.pid) or [self.holder.pid])[0]

    def enter(self, *kinds):
        """The start of a command that is to run in namespaces of these kinds."""
        return ["nsenter", f"--target={self.pid}", *[f"--{kind}" for kind in kinds]]

    def do(self, *command):
        """Run a command in here. Raises: RuntimeError with what it said, if it fails."""
        command = [*self.enter("mount", "net", "pid", "uts"), *map(str, command)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")

    def seen(self, path):
        """A path as it is in here, for this process."""
        return Path(f"/proc/{self.pid}/root") / str(path).lstrip("/")

    def close(self):
        """Ends all that runs in here, if it has its own processes."""
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()


class Machine(Room):
    """Machine 1, 2, ..., with a host name, on a switch."""

    def __init__(self, switch, number, name):
        super().__init__([*switch.enter("mount", "net"), *OWN])
        self.switch, self.name, self.address = switch, name, f"10.0.0.{number}"
        self.port = f"to-{self.pid}"
        pair = ["type", "veth", "peer", "name", CARD, "netns", self.pid]
        switch.do("ip", "link", "add", self.port, *pair)
        switch.do("ip", "link", "set", self.port, "master", "switch", "up")
        self.do("ip", "address", "add", f"{self.address}/24", "dev", CARD)
        for card in ("lo", CARD):
            self.do("ip", "link", "set", card, "up")
        self.do("sh", "-c", f"echo {name} > /proc/sys/kernel/hostname")
        self.do("sh", "-c", f"for each in $(seq {number}00); do (:); done")  # so that no pid is on two

    def start(self, command, log, environment):
        """A process in here that adds what it says to the file `log`."""
        command = [*self.enter("mount", "net", "pid", "uts"), *command]
        with open(log, "a") as opened:
            return subprocess.Popen(
                command, stdout=opened, stderr=opened, start_new_session=True, env=environment
            )

    def link(self, state):
        """Plug its cable in (up) or out (down)."""
        self.switch.do("ip", "link", "set", self.port, state)

    def kill(self):
        """Off, with the cable, so that nothing of it says goodbye."""
        self.link("down")
        os.kill(self.pid, signal.SIGKILL)

    def slow(self):
        """Its link from now on, as far as the kernel can. Returns: how it is, in words."""
        begin = ["tc", "qdisc", "add", "dev", CARD, "root"]
        try:
            self.do(*begin, "netem", "rate", "100mbit", "delay", "5ms", "loss", "3%")
            return "100 Mbit/s, 10 ms there and back, 3 % of packets lost"
        except RuntimeError:
            self.do(*begin, "tbf", "rate", "100mbit", "burst", "64kb", "latency", "50ms")
            return "100 Mbit/s (this kernel can delay and lose nothing: no netem)"


class Network:
    """A switch, the machines on it, and perhaps a disk that all of them see. A context manager."""

    def __init__(self):
        self.switch, self.machines, self.freezer = Room(["unshare", "--mount", "--net"]), [], None
        self.switch.do("ip", "link", "add", "switch", "type", "bridge")
        self.switch.do("ip", "link", "set", "switch", "up")

    def mount_disk(self, folder):
        """Put a disk of its own under an empty folder, for machines that are booted from now on."""
        image = folder.with_suffix(".img")
        subprocess.run(["mkfs.ext4", "-q", image, "400M"], check=True, capture_output=True)
        self.switch.do("mount", "-o", "loop", image, folder)

    def boot(self, *names):
        """Machines with these host names, in place of those there were."""
        self._off()
        for number, name in enumerate(names, 1):
            self.machines.append(Machine(self.switch, number, name))

    def _off(self):
        while self.machines:
            self.machines.pop().close()

    def freeze(self, folder):
        """From now on the folder's disk answers nobody, until `thaw`, or this process ends."""
        hold = 'fsfreeze -f "$0" && echo frozen; read end; fsfreeze -u "$0"'
        command = [*self.switch.enter("mount"), "sh", "-c", hold, folder]
        pipe = subprocess.PIPE
        self.freezer = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        if not self.freezer.stdout.readline():
            raise RuntimeError(f"the disk of {folder} cannot be frozen")

    def thaw(self):
        """The disk answers again."""
        if self.freezer:
            self.freezer.communicate()
            self.freezer = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.thaw()
        self._off()
        self.switch.close()
