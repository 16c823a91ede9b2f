"""If these fail, the race of the modes (bench/modes) miscounts what ranks send, on paper or in the kernel, or
its links are not as fast as they say."""

import itertools

import pytest

from alexnet2gpu.config.load import load_config
from bench.modes import calibrate, links, race
from bench.modes.formulas import sent_by_a_rank


@pytest.mark.parametrize(
    ("mode", "fixed", "an_image"),
    [("split", 0, 244_688), ("ddp", 243.861e6, 0), ("fsdp", 365.791e6, 0), ("hybrid", 9.33632e6, 71_632)],
)
def test_what_a_rank_of_two_sends_on_paper(mode, fixed, an_image):
    """Worked out by hand from AlexNet's widths and parameters."""
    network = load_config("configs/alexnet.yaml").model
    for batch in (32, 128):
        assert sent_by_a_rank(mode, network, batch, 2) == pytest.approx(fixed + an_image * batch, rel=1e-5)


def test_a_grid_sends_as_a_split_of_its_images_and_as_ddp_of_its_towers():
    network = load_config("configs/alexnet.yaml").model
    split, ddp = sent_by_a_rank("split", network, 16, 2), sent_by_a_rank("ddp", network, 16, 2)
    assert sent_by_a_rank("grid", network, 32, 4) == split + ddp / 2


def test_the_line_through_exact_figures_is_found():
    sent = [2**power for power in range(14, 27)]
    alpha, bandwidth = calibrate.fit(sent, [0.001 + size / 25e6 for size in sent])
    assert (alpha, bandwidth) == pytest.approx((0.001, 25e6))


def test_the_interval_of_equal_ratios_is_a_point():
    assert list(race.interval([1.25] * 5)) == [1.25, 1.25]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--modes", "tensor"], "tensor: one of single, split"),
        (["--modes", "grid"], "2 ranks make one replica"),
        (["--ranks", "4", "--modes", "split"], "2 towers divide over 2"),
        (["--batches", "33", "--modes", "ddp"], "33 does not divide over 2"),
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
        words = ["--config", "configs/quick.yaml", "--modes", "split", "ddp", "--rounds", "1", "--steps", "3"]
        args, contenders, _ = race.parse([*words, "--set", "train.seed=1"])
        found = race.race(contenders, rate, 64, args)
        for name, [answers] in found.items():
            formula = sent_by_a_rank(name, load_config(args.config).model, 64, 2)
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
