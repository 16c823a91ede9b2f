"""Every reader of the package is given files that say anything: 10,000 of them in some minutes.

    python -m bench.faults.readers FOLDER COUNT

    config       YAML                                            load_config
    arrays       .npy: any header, any bytes, other files        load_images
    idx          IDX, plain and compressed: any sizes            load_images
    cifar        a CIFAR-10 folder of anything                   load_images
    photograph   of each format, JPEG to TGA, and PostScript     the packing's worker
    sidecar      of a pack, changed and sealed again             read_pack, each image
    pack         its other files, their checksums made right     read_pack, each image
    journal      of a begun pack                                 Growth
    state        state.json, changed and sealed again            newest_checkpoint, find_start
    tower        any tensors, dtypes, layouts, other objects     find_start, load_towers
    metrics      metrics.jsonl                                   read_metrics

A reader returns something valid, or raises ValueError or OSError in one line that names the file: nothing
else is right, nor more than 5 s of work or 500 MB for a small file, nor to start a program. Each reader runs
in a process of its own whose memory is limited: a bomb does not take the machine down. Half of the inputs are
changed in what they say (hypothesis), half in their bytes; some are pipes, endless devices, loops of links.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import torch

from alexnet2gpu.faults.mistakes import one_line
from bench.faults.inputs import Configs
from bench.faults.inputs_of_images import Arrays, Cifar, Idx, Photographs
from bench.faults.inputs_of_packs import Journals, JpegPacks, Packs, Sidecars
from bench.faults.inputs_of_runs import Metrics, States, Towers

READERS = {  # and its share of the inputs
    "config": (Configs, 8),
    "arrays": (Arrays, 20),
    "idx": (Idx, 15),
    "cifar": (Cifar, 1),
    "photograph": (Photographs, 20),
    "sidecar": (Sidecars, 15),
    "pack": (Packs, 10),
    "jpeg pack": (JpegPacks, 8),
    "journal": (Journals, 10),
    "state": (States, 10),
    "tower": (Towers, 10),
    "metrics": (Metrics, 8),
}
SECONDS, MEGABYTES, LINE = 5, 500, 1500  # at most, of one input: of work, of memory, characters
STUCK = 30  # seconds
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"}
ROOM = 2**31  # bytes of addresses that a process may add


def fuzz_readers(folder: Path, count: int = 10_000, seed: int = 0) -> dict:
    """Give every reader its share of `count` inputs, in new folders of `folder`. Returns: how many each got,
    what was wrong (reader, input, what), the slowest one's seconds of work, the largest one's MB."""
    import hypothesis.strategies  # noqa: F401  once, not in every child

    found = {"inputs": {}, "wrong": [], "slowest_s": 0.0, "largest_mb": 0.0}
    shares = sum(share for _, share in READERS.values())
    for name, (kind, share) in READERS.items():
        (folder / name).mkdir(parents=True)
        reader = kind(folder / name)
        part = _in_child(reader, max(1, round(count * share / shares)), seed)
        found["inputs"][name] = part["inputs"]
        found["wrong"] += [(name, *wrong) for wrong in part["wrong"]]
        for most in ("slowest_s", "largest_mb"):
            found[most] = max(found[most], part[most])
    return found


def _in_child(reader, count, seed):
    """What `_fuzz` returns, or how the process ended; the last input stays in the folder then."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    child = fork.Process(target=_fuzz, args=(reader, count, seed, theirs))
    child.start()
    theirs.close()
    said, part = "", None
    try:
        while part is None and ours.poll(2 * STUCK):
            said = ours.recv()
            part = said if isinstance(said, dict) else None
    except EOFError:
        child.join()
    if part is None:
        child.kill()
    child.join()
    end = f"the process ended with {child.exitcode}"
    return part or {"inputs": 0, "wrong": [(said, end)], "slowest_s": 0.0, "largest_mb": 0.0}


def _fuzz(reader, count, seed, pipe):
    import hypothesis
    from hypothesis import strategies

    torch.set_num_threads(1)  # those of the process that forked are not here: torch would wait for them
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints what it thinks of a file
    programs = []
    sys.addaudithook(lambda event, args: programs.append(event) if event in STARTS else None)
    signal.signal(signal.SIGALRM, _late)
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    found = {"inputs": 0, "wrong": [], "slowest_s": 0.0, "largest_mb": 0.0}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategies.data())
    def one(data):
        if found["inputs"] >= count:
            return
        what = reader.change(data.draw)
        pipe.send(what)
        before, work = _resident(), time.process_time()
        wrong = _outcome(reader)
        seconds, peak = time.process_time() - work, _highest()
        used = peak - before if peak > found.get("peak", 0) else 0
        found["peak"] = max(found.get("peak", 0), peak)
        if programs:
            wrong = f"started a program: {programs}"
            programs.clear()
        wrong = wrong or (f"{seconds:.1f} s of work" if seconds > SECONDS else "")
        wrong = wrong or (f"{used:.0f} MB" if used > MEGABYTES else "")
        if wrong:
            found["wrong"].append((what, wrong))
        found["inputs"] += 1
        found["slowest_s"] = max(found["slowest_s"], seconds)
        found["largest_mb"] = max(found["largest_mb"], used)
        reader.put_back()

    one()
    pipe.send(found)


class _Stuck(BaseException):
    """It waits for something."""


def _late(number, frame):
    raise _Stuck


def _outcome(reader):
    """What is wrong with how a reader deals with what is there; "" if nothing is."""
    signal.alarm(STUCK)
    try:
        return reader.read() or ""
    except (ValueError, OSError) as error:
        line = one_line(error)
        if not any(name in line for name in reader.names):
            return f"{type(error).__name__} names no file: {line[:LINE]}\n{traceback.format_exc()}"
        return "" if len(line) < LINE else f"a line of {len(line)} characters"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def _highest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    place = Path(sys.argv[1])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    begun = time.monotonic()
    found = fuzz_readers(place, int(sys.argv[2]), seed)
    for name, what, wrong in found["wrong"]:
        print(name, what, wrong, sep="\n", end="\n\n")
    found["wrong"] = len(found["wrong"])
    print(json.dumps(found, indent=1), f"{time.monotonic() - begun:.0f} s", sep="\n")
