"""The table of docs/faults.md, from what the parts of bench.faults have found."""

from bench.faults import machines
from bench.results import table

GONE = " | all processes gone, the slowest after {slowest to be gone, s:.0f} s | {left over} left over"
ROWS = {  # what was done | what should come of it | what came, by the names that `terms` gives
    "same mode": [
        "{runs} runs, in one mode: {kills} kills in {starts} starts | losses, errors and weights of the "
        "unbroken run, bit for bit | {as the unbroken run} of {runs}",
        GONE,
    ],
    "other modes": [
        "{runs} runs, each start in any mode: {kills} kills in {starts} starts | losses, errors and weights "
        "of the unbroken run, to {largest difference:.0e} in float64 | {as the unbroken run} of {runs}",
        GONE,
    ],
    "writing": [
        "writer killed at {killed} random bytes | the checkpoint before is taken | "
        "{taken the one before} of {killed}",
        "newest checkpoint cut at {cut} random bytes | the one before is taken | {taken it again} of {cut}",
    ],
    "files": ["{changed:,} changed files | no traceback, no hang, nothing accepted in silence | {sound}"],
    "stopped rank": [
        "a rank stopped (SIGSTOP) | the other gone within 60 s, and says which | "
        "{survivor gone after, s:.0f} s; with torchrun {all gone after, s:.0f} s"
    ],
    "cost": ["a checkpoint after every epoch of `configs/quick.yaml` | under 2 % of the time | {shares}"],
    "same bits": ["two runs with one seed, in each mode | the same bits | {same} of {modes} modes"],
    "stops": [
        "Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 to the process group, with and without `\\| tee`, on one device "
        "and under torchrun | saved at the next step, and bit for bit as the unbroken run once resumed | "
        "{matrix right} of {matrix}",
        "ranks signalled alone, terminals gone, full disks behind a log, --out emptied or moved, torchrun "
        "stopped, mistakes under it | saved, gone on with, or one line at the end | "
        "{others right} of {others}",
    ],
    "calls": [
        "the n-th call of open, read, write, fsync, rename, mkdir, unlink, truncate, Thread.start or an "
        "allocation fails, on each rank, once and from then on, for every n: {n:,} of them | nothing lost, "
        "one line and status 2, or borne | {lost} lost, {otherwise} ended otherwise"
    ],
    "readers": [
        "{count:,} fuzzed inputs of {kinds} readers | valid, or one line that names the file; under 5 s, "
        "under 500 MB | {sound:,}; {slowest_s:.1f} s, {largest_mb:.0f} MB at most"
    ],
    "machines": [
        "two machines, the second told something else, in {told} ways | status 2, and one line that says "
        "what and where | {told right} of {told}",
        "a machine killed or cut off for good, a disk frozen for good | named by those that are left, and "
        "resumed bit for bit | {ended right} of {ended}; ranks gone within {slowest:.0f} s, with the disk "
        "{disk:.0f} s",
        "the cable out for 5, 8, 25 s, a disk frozen for 15 s, {link} | the run goes on, bit for bit | "
        "{goes on right} of {goes on}",
    ],
}


def terms(name, found):
    """What a part has found, and what follows from it, by the names in ROWS."""
    if name in ("same mode", "other modes"):
        return found | {"kills": sum(found["killed"].values())}
    if name == "files":
        changed, wrong = found["changed"], len(found["wrong"])
        return {"changed": changed, "sound": f"{changed - wrong:,} of {changed:,}"}
    if name == "cost":
        said = "{} {loop:.1%}, waiting for the disk too {with the disk:.1%}"
        return {"shares": "; ".join(said.format(mode, **share) for mode, share in found.items())}
    if name == "same bits":
        return {"same": sum(far == 0 for far in found.values()), "modes": len(found)}
    if name == "stops":
        others = {
            "others": found["cases"] - found["matrix"],
            "others right": found["right"] - found["matrix right"],
        }
        return found | others
    if name == "calls":
        return found | {"otherwise": sum(len(part["wrong"]) for part in found["wrong"])}
    if name == "readers":
        count = sum(found["inputs"].values())
        return found | {"count": count, "kinds": len(found["inputs"]), "sound": count - len(found["wrong"])}
    return terms_of_machines(found) if name == "machines" else found


def terms_of_machines(found):
    """Of its kinds of scenarios, how many there are, and how many came as is right."""
    kinds = {
        "told": list(machines.TOLD),
        "ended": [name for name, fault in machines.FAULTS.items() if fault.named],
        "goes on": [name for name, fault in machines.FAULTS.items() if not fault.named],
    }
    known = {kind: len(names) for kind, names in kinds.items()}
    known |= {f"{kind} right": sum(found[name]["right"] for name in names) for kind, names in kinds.items()}
    gone = {name: max(filter(None, found[name]["seconds until"]["ranks"])) for name in kinds["ended"]}
    known |= {"disk": gone.pop("disk frozen"), "slowest": max(gone.values())}
    return known | {"link": found["slow"]["links"][0]}


def rows(parts):
    """The rows of the table, as cells."""
    for name, part in parts.items():
        known = terms(name, part["found"])
        for row in ROWS[name]:
            yield tuple(cell.format(**known) for cell in row.split(" | "))


def drawn(parts):
    """The table of the page."""
    return table(["what is done", "what should come of it", "seen"], rows(parts))
