"""Links between ranks: loopback, or cards of so many bytes a second, each rank's in a network of its own.

    with Links(ranks=2, rate=125e6) as links:
        team = Team("split", links.commands([sys.executable, "-m", ...]), links.environments())

With a rate, every rank is a machine of bench/faults/network.py with a veth card on a bridge, and what its
card sends passes a token bucket of the kernel (`tc ... tbf`): gloo's TCP connections meet a real bottleneck.
With more than two ranks, the bridge's port towards each has such a bucket as well: several ranks may send to
one at once, and a switch gives it no more than its card takes. Between two, the sender's is the same limit.

A bucket lets BURST seconds' worth pass at once, then the rate; the less, the sooner a rate is seen, but the
more is lost whenever the sender waits for a core. It is never less than one packet of the kernel (64 KiB,
before the card cuts it up), or TCP collapses. The queue before it, LIMIT, is so long that nothing is dropped
at the sender. Headers count: of 1,514 bytes 1,448 are payload, so 125 MB/s carry 119.6. There is no latency
but the kernel's own.

However this process ends, the kernel takes processes and cards away. Only root can have a rate.
"""

import itertools
import os
import shutil
import subprocess

import torch.distributed as dist

from bench.faults import network
from bench.processes import environment_of
from bench.results import REPOSITORY

BURST, LEAST_BURST = 0.002, 72 * 1024  # seconds, bytes
LIMIT, LEAST_LIMIT = 0.03, 1024**2  # seconds, bytes
PAYLOAD = 1448 / 1514  # of what a card sends


def why_not() -> str:
    """Why there can be no links with a rate here; "" if there can."""
    if why := network.why_not():
        return why
    if not shutil.which("tc"):
        return "tc is missing: install iproute2"
    command = ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", *bucket(25e6)]
    tried = subprocess.run(command, capture_output=True, text=True)
    return f"this kernel has no token bucket (tbf): {tried.stderr.strip()}" if tried.returncode else ""


def bucket(rate):
    """A card's discipline at so many bytes a second, in tc's words."""
    burst, limit = max(BURST * rate, LEAST_BURST), max(LIMIT * rate, LEAST_LIMIT)
    return ["tbf", "rate", f"{8 * rate:.0f}bit", "burst", f"{burst:.0f}", "limit", f"{limit:.0f}"]


def said(rate):
    """A rate in words."""
    return "loopback" if rate is None else f"{rate / 1e6:g} MB/s"


class Links:
    """Where `ranks` processes of each of any number of teams run, and how they meet. A context manager.
    `rate`: in bytes a second, of each rank's card in each direction; None: loopback.
    Raises: ValueError if there can be no links with a rate here."""

    def __init__(self, ranks: int, rate: float | None):
        if rate is not None and (why := why_not()):
            raise ValueError(f"no link of {said(rate)} here: {why}")
        self.ranks, self.rate, self.network = ranks, rate, None
        self.stores, self.ports = [], itertools.count(29500)

    def __enter__(self):
        if self.rate is None:
            return self
        self.network = network.Network()
        self.network.boot(*(f"rank-{rank}" for rank in range(self.ranks)))
        for machine in self.network.machines:
            begin = "tc", "qdisc", "add", "dev"
            machine.do(*begin, network.CARD, "root", *bucket(self.rate))
            if self.ranks > 2:
                self.network.switch.do(*begin, machine.port, "root", *bucket(self.rate))
        return self

    def __exit__(self, *error):
        self.stores.clear()
        if self.network:
            self.network.__exit__(*error)

    def commands(self, command):
        """Of each rank, in its place."""
        if not self.network:
            return [command] * self.ranks
        kinds = "mount", "net", "pid", "uts"
        return [[*each.enter(*kinds), f"--wd={REPOSITORY}", *command] for each in self.network.machines]

    def environments(self):
        """Of each rank of one more team, which meets at a store of its own: on loopback this process's, else
        the first rank's."""
        if self.network:
            port, card = next(self.ports), network.CARD
            own = {"MASTER_ADDR": self.network.machines[0].address, "TORCHELASTIC_USE_AGENT_STORE": "False"}
        else:
            self.stores.append(dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
            port, card, own = self.stores[-1].port, "lo", {}
        own |= {"GLOO_SOCKET_IFNAME": card}
        return [os.environ | environment_of(rank, self.ranks, port) | own for rank in range(self.ranks)]
