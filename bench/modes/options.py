"""Options that the commands of bench.modes share."""

import argparse
import os


def add_links(parser):
    parser.add_argument("--ranks", type=int, default=2)
    known = "MB/s (1e6 bytes) of each rank's card, none: loopback"
    parser.add_argument(
        "--links", nargs="+", type=link, default=[None, 125e6, 25e6], metavar="MB/S", help=known
    )


def link(word):
    """Bytes a second; None for loopback."""
    if word == "none":
        return None
    try:
        rate = 1e6 * float(word)
    except ValueError:
        rate = 0
    if not 0.1e6 <= rate <= 100e9:
        raise argparse.ArgumentTypeError(f"{word!r}: none, or MB/s from 0.1 to 100,000")
    return rate


def on_cpu():
    """All that is started from now on sees no GPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
