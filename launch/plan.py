"""Which mode, before a run: the time of a step, what a rank sends, and the memory that it needs.

    python launch/plan.py --ranks 2 --profile h100 --link inside=50GB/s:5us
    python launch/plan.py --ranks 8 --set model.towers=4 --batches 128 1024 --profile here \
        --link inside=50GB/s:5us between=12.5GB/s:20us --per-machine 4 --budget 3GiB --out plan

Layers take what a profile says: one of configs/profiles, a file, or what is measured `here` and now, in half
a minute (of this config, precision and `train.threads`). A link has a bandwidth and the time of a message.
Batches count the images of all ranks together. --out DIR leaves the profile and, with matplotlib, a chart of
the fastest mode over batch and bandwidth.
"""

import re
from pathlib import Path

from options import UNITS, Parser, alone, size

from alexnet2gpu.faults.mistakes import one_line_mistakes

BITS = {"Mbit": 10**6 / 8, "Gbit": 10**9 / 8}
TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def parse(argv):
    from alexnet2gpu.ranks.schedule import TIMED

    parser = Parser("plan.py", __doc__, "--set")
    parser.share_config("configs/alexnet.yaml")
    add, several = parser.add_argument, {"nargs": "+"}
    add("--ranks", type=int, default=2, metavar="N", help="in all; default: 2")
    add("--batches", **several, type=int, metavar="N", help="default: train.batch of the config")
    add("--modes", **several, choices=TIMED, metavar="MODE", help=f"of {', '.join(TIMED)}; default: all")
    add(
        "--profile",
        default="here",
        metavar="FILE",
        help="or a name in configs/profiles, or here, the default",
    )
    lines = "inside= a machine, between= machines: bandwidth:message, as in inside=50GB/s:5us"
    add("--link", **several, metavar="LINK", help=lines + "; default: the profile's, if it has any")
    add("--per-machine", type=int, metavar="K", help="ranks; default: all")
    add("--budget", metavar="SIZE", help="memory of a rank, as in 3GiB")
    add("--out", metavar="DIR", help="for profile.json and the chart")
    args = parser.parse_args(argv)
    alone("plan.py")
    args.budget = args.budget and size(args.budget)
    numbers = args.ranks, *(args.batches or ()), *([] if args.per_machine is None else [args.per_machine])
    if not 1 <= min(numbers) <= max(numbers) < 2**31:
        options = "--ranks, --batches and --per-machine"
        raise ValueError(f"{options}: should be whole numbers, at least 1, below 2**31")
    return args


def lines_of(links, per_machine, known):
    """cost.Lines, as --link has them or else a profile, from which it also takes what --link does not say."""
    from alexnet2gpu.ranks.cost import Line, Lines

    try:
        found = {name: Line(**known[name]) for name in ("inside", "between") if name in known}
    except (TypeError, ValueError) as error:
        raise ValueError(f"--profile: its links are none: {error}") from None
    rates, number = {**UNITS, **BITS}, r"(\d+(?:\.\d*)?)"
    pattern = rf"(inside|between)={number} ?({'|'.join(rates)})/s(?::{number} ?(us|ms|s))?"
    said = set()
    for text in links or ():
        match = re.fullmatch(pattern, text, re.ASCII)
        if not match or not 0 < float(match[2]) < 1e9 or not float(match[4] or 0) < 1e9:
            raise ValueError(f"--link {text}: should be as inside=50GB/s:5us or between=10Gbit/s:20us")
        name, rate, unit, message, time = match.groups()
        if name in said:
            raise ValueError(f"--link {text}: {name}= is there twice")
        said.add(name)
        own = {"bandwidth": float(rate) * rates[unit], "alpha": float(message or 0) * TIMES[time or "s"]}
        found[name] = Line(**{**known.get(name, {}), **own})
    if "inside" not in found:
        raise ValueError("--link: say what joins ranks, as in --link inside=50GB/s:5us")
    if "between" in found and not per_machine:
        raise ValueError("--link between=: joins machines, so say how many ranks one has: --per-machine")
    return Lines(**found, per_machine=per_machine or 2**31)


def make_folder(name):
    """For --out. Raises: ValueError if it cannot be."""
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {name}: {error.strerror}: give another directory") from None


def profile_of(name, config):
    """The profile, which suits the config."""
    from alexnet2gpu.model import profile

    if name != "here":
        found = profile.read(name)
        found.check(config.model)
        if found.precision != config.train.precision:
            way_out = f"--set train.precision={found.precision}, or --profile here"
            raise ValueError(f"--profile {name}: is of {found.precision}: {way_out}")
        return found
    from alexnet2gpu.model.timing import measure
    from alexnet2gpu.ranks.groups import Ranks
    from alexnet2gpu.ranks.machine import cores
    from alexnet2gpu.ranks.modes import Grid

    grid = Grid(towers=range(config.model.towers))
    with Ranks(grid, config.train.threads, config.train.keep_memory) as ranks:
        return measure(config, ranks.device, cores())


def untimed(config):
    """Keys of the config that a step on paper knows nothing of."""
    set_to = {
        "train.accumulate": config.train.accumulate > 1,
        "optim.fc_updates": config.optim.fc_updates > 1,
        "exchange.overlap": config.exchange.overlap,
        "memory.regather": config.memory.regather,
        "memory.recompute": bool(config.memory.recompute),
    }
    return [key for key, is_set in set_to.items() if is_set]


def case_of(mode, config, ranks):
    """What memory is predicted of; None in a mode that the prediction does not know."""
    from alexnet2gpu.memory.plan import Case
    from alexnet2gpu.ranks.names import MODES

    if mode not in MODES:
        return None
    return Case.on(mode, config, ranks)


def draw(setting, title, file, slowest=7):
    """The chart: batches of 8 to 4,096, and 10 MB/s, or another power of ten, to 1 TB/s."""
    from alexnet2gpu.figures.plan import draw_regions

    batches, rates = [2 ** (n / 2) for n in range(6, 25)], [10 ** (n / 4) for n in range(4 * slowest, 49)]
    draw_regions(title, batches, rates, setting.fastest_of(batches, rates), file)


def main(argv=None):
    with one_line_mistakes():
        args = parse(argv)
        from alexnet2gpu.config.load import load_config
        from alexnet2gpu.figures.page import has_matplotlib
        from alexnet2gpu.memory.plan import with_train
        from alexnet2gpu.ranks.plans import Setting, comparison, element_of, proviso
        from alexnet2gpu.ranks.schedule import TIMED

        config = load_config(args.config, args.set)
        if args.out:
            make_folder(args.out)
        if args.profile == "here":
            lines_of(args.link, args.per_machine, {})  # a mistake there is found before the measurement
        profile = profile_of(args.profile, config)
        lines = lines_of(args.link, args.per_machine, profile.links)
        setting = Setting(config.model, profile, lines, args.ranks, element_of(config))
        plans, reasons = [], {}
        for batch in args.batches or [config.train.batch]:
            for mode in args.modes or TIMED:
                reason, case = setting.unsuited(mode, batch), None
                if not reason and (case := case_of(mode, with_train(config, batch=batch), args.ranks)):
                    reason = case.mistake
                if reason:
                    reasons[f"{mode}: {reason}"] = None
                    continue
                peak = case.predict(on_gpu=not profile.cores).bytes["peak"] if case else None
                plans.append(setting.plan(mode, batch)._replace(peak=peak))
        if not plans:
            raise ValueError("--modes: " + "; ".join(reasons))
        name = Path(args.config).stem
        source, *_ = profile.source.split(";")
        threads = f", {profile.threads} thread{'s' * (profile.threads > 1)} a rank" * bool(profile.cores)
        print(f"{name}, {config.train.precision}; layers as on {profile.device}{threads}: {source}")
        print("\n".join([comparison(plans, args.budget), *reasons]))
        if said := proviso(profile):
            print(f"times {said}")
        if keys := untimed(config):
            print(f"times and MB are those of a step without {', '.join(keys)}; memory counts them")
        if args.out:
            folder, figures = Path(args.out), has_matplotlib()
            profile.write(folder / "profile.json")
            if figures:
                title = f"{name}, {args.ranks} ranks, {profile.device}: the fastest mode"
                draw(setting, title, folder / "plan.png")
            print(f"profile.json{' and plan.png' * figures}: {folder}")


if __name__ == "__main__":
    main()
