"""If these fail, the race of the modes (bench/modes) miscounts what ranks send, on paper or in the kernel, or
its links are not as fast as they say."""

import itertools

import pytest

from alexnet2gpu.config.load import load_config
from alexnet2gpu.ranks.cost import sent
from bench.modes import links, race


def test_the_interval_of_equal_ratios_is_a_point():
    assert list(race.interval([1.25] * 5)) == [1.25, 1.25]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--modes", "ours"], "ours: one of single, split"),
        (["--modes", "grid"], "do not make replicas of 2 ranks"),
        (["--ranks", "4", "--modes", "split"], "2 towers do not divide over 4 ranks"),
        (["--batches", "33", "--modes", "ddp"], "batch 33 does not divide by 2"),
        (["--links", "fast"], "none, or MB/s"),
    ],
)
def test_a_race_that_cannot_be_is_refused_in_one_line(words, said, capsys):
    with pytest.raises(SystemExit):
        race.parse(["--config", "configs/quick.yaml", *words])
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_kernel_counts_what_is_on_paper():
    """On loopback, and at 50 MB/s where links can be slow; there a step takes at least what sending takes,
    less the bucket that was full at its start."""
    for rate in [None, *[50e6] * (not links.why_not())]:
        words = [
            "--config",
            "configs/quick.yaml",
            "--modes",
            "split",
            "ddp",
            "hybrid",
            "--rounds",
            "1",
            "--steps",
            "3",
        ]
        args, contenders, _ = race.parse([*words, "--set", "train.seed=1"])
        found = race.race(contenders, rate, 64, args)
        for name, [answers] in found.items():
            formula = sent(name, load_config(args.config).model, 2, 64)
            for answer in answers:
                assert answer["sent"] / 3 == pytest.approx(formula, rel=0.02)
            if rate:
                seconds = min(sum(answer["seconds"]) for answer in answers)
                assert seconds > (3 * formula - 2 * links.BURST * rate) / rate


def test_the_bucket_never_holds_less_than_a_packet_of_the_kernel():
    words = {rate: links.bucket(rate) for rate in (1e6, 25e6, 125e6)}
    for words_of, name in itertools.product(words.values(), ("burst", "limit")):
        assert int(words_of[words_of.index(name) + 1]) > 64 * 1024
    assert words[125e6][2] == "1000000000bit"
