"""If these fail, docs/ablations.md says of its arms what its runs do not."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet2gpu.config.layers import Relu, Tanh
from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import totals
from alexnet2gpu.faults.watch import Watch
from alexnet2gpu.ranks.modes import Grid
from bench.ablations import jobs, page, runs, stats
from bench.ablations.arms import BASE, GRID, Arm, claims, config_of, suites
from bench.ablations.findings import FAMILIES, Sooner, families
from bench.ablations.jobs import CHOICE, Job, missing, rate_of
from bench.ablations.tables import tables
from bench.results import rewrite

SKEWED = np.array([0.1, 0.3, 0.2, 0.25, 2.0, 0.15, 0.4, 0.05, 0.9, 0.35])


def network(suite, arm):
    return config_of(suites()[suite], suites()[suite].arms[arm], 0.01, 0).of_classes().model


def test_arms_are_what_they_are_called():
    def names(model):
        return [name for stage in model.stages for name in stage]

    base = network("fashion", BASE)
    for suite, of in suites().items():
        for arm in of.arms.values():
            config = config_of(of, arm, 0.03, 7)
            assert config.optim.schedule[0].weights == 0.03 and config.train.seed == 7, suite
    apart = network("fashion", "no communication").stages
    assert [len(stage) for stage in apart] == [len(names(base)) - 1, 1]
    assert all(len(stage) < 6 for stage in network("fashion", "communication everywhere").stages)
    assert names(network("fashion", "one hidden layer")) == [n for n in names(base) if "7" not in n]
    of_tanh = [layer for stage in network("fashion", "tanh").stages for layer in stage.values()]
    assert sum(isinstance(layer, Tanh) for layer in of_tanh) == 7
    assert not any(isinstance(layer, Relu) for layer in of_tanh)
    assert not any("norm" in name for name in names(network("fashion", "no normalisation")))
    for arm, within in (("no communication", 0.02), ("one tower", 0.003)):
        assert totals(network("fashion", arm)) == pytest.approx(totals(base), rel=within)
    for arm in ("2x2 pooling", "average pooling", "tanh", "initial weights of the text"):
        assert totals(network("fashion", arm)) == totals(base)
    more = totals(network("fashion", "communication everywhere"))[0] / totals(base)[0]
    assert f"*Communication everywhere* has {more - 1:.0%} more".replace("%", " %") in page.PAGE.read_text()
    assert config_of(suites()["caltech"], suites()["caltech"].arms["no crops"], 0.01, 0).data.crop is None


def test_a_rate_is_chosen_where_more_and_less_err_more(monkeypatch):
    errors = {}

    def tried(least):
        wanted = []
        while True:
            rate, lacking = rate_of("fashion", BASE, errors)
            if rate:
                return rate, sorted({job.rate for job in wanted})
            wanted += lacking
            errors.update({job: abs(np.log(job.rate / least)) + job.seed for job in lacking})

    assert tried(0.012) == (0.01, [0.003, 0.01, 0.03])
    errors.clear()
    assert tried(0.2) == (0.3, [0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
    errors.clear()
    of = {0.003: (0.3, 0.3), 0.01: (0.1745, 0.1535), 0.03: (0.159, 0.169), 0.1: (0.3, 0.3)}
    errors |= {Job("fashion", BASE, "choose", "single", rate, n): of[rate][n] for rate in of for n in (0, 1)}
    assert rate_of("fashion", BASE, errors) == (0.03, []), "of two as good, whatever the rounding, the larger"
    errors.clear()
    assert tried(1e-5) == (0.0003, [0.0003, 0.001, 0.003, 0.01, 0.03])


def test_what_is_missing_comes_seed_by_seed_once_rates_are_known():
    errors = {}
    first = list(missing(errors))
    assert {job.part for job in first if job.suite != "textbook"} == {"choose"}
    arms = sum(len(suite.arms) for name, suite in suites().items() if name != "textbook")
    assert len(first) == arms * 3 * CHOICE + 1
    while any(job.part == "choose" for job in missing(errors)):
        errors |= dict.fromkeys(missing(errors), 0.5)
    for _ in range(2):
        left = [job for job in missing(errors) if job not in errors]
        errors |= dict.fromkeys(left, 0.5)
    done = [job for job in errors if job.part == "final" and job.suite == "fashion" and job.arm == BASE]
    assert sorted({job.mode for job in done}) == ["ddp", "single", "split"] and len(done) == 30
    assert [job.seed for job in done if job.mode == "single"] == list(range(10))
    assert not list(missing(errors))


def test_a_row_counts_until_its_config_changes_or_what_computes_it(tmp_path, monkeypatch):
    job = Job("fashion", "tanh", "choose", "single", 0.01, 1)
    row = {
        **job._asdict(),
        "commit": "HEAD",
        "config": runs.checksum(job),
        "failed": "",
        "test_error": [0.5, 0.25],
    }
    gone = {"arm": "no such arm", "suite": "no such suite"}
    other = [row | {"config": "0", "seed": 0}, *({**row, key: value} for key, value in gone.items())]
    monkeypatch.setattr(runs, "FILE", tmp_path / "rows.jsonl")
    runs.FILE.write_text("".join(json.dumps(line) + "\n" for line in (row, *other)))
    monkeypatch.setattr(runs, "same_code", lambda commit: True)
    assert runs.errors_of(runs.rows()) == {job: 0.25}
    monkeypatch.setattr(runs, "same_code", lambda commit: False)
    assert runs.rows() == {}
    runs.FILE.write_text(json.dumps(row) + "\n" + json.dumps(row)[:40])
    with pytest.raises(ValueError, match="line 2 is not a whole row"):
        runs.rows()
    assert runs.errors_of({job: row | {"failed": "nan"}}) == {job: 1.0}
    fast = job._replace(suite="figure 1")
    assert runs.errors_of({fast: row | {"train_error": [0.8, 0.3]}}) == {fast: pytest.approx(0.55)}


def test_a_run_whose_loss_is_not_finite_is_a_row_and_any_other_end_is_not(tmp_path, monkeypatch):
    def train(error):
        def main(argv):
            with Watch(Grid()):
                raise error

        monkeypatch.setattr(runs, "program_of", lambda name: SimpleNamespace(main=main))
        return runs.train([], str(tmp_path / "log"))

    assert train(FloatingPointError("step 3: the loss is nan")) == "step 3: the loss is nan"
    with pytest.raises(RuntimeError, match="train.py ended with 2: (.|\n)*no such file"):
        train(ValueError("no such file"))


def made_up(job, error):
    """A row in which the error falls to `error` in ten epochs; of Figure 1's tanh at half the speed."""
    slow = 2 if job.suite == "figure 1" and job.arm == "tanh" else 1
    curve = [error + 0.5 * 0.5 ** (epoch / slow) for epoch in range(10)]
    row = {
        "rate": job.rate,
        "seed": job.seed,
        "failed": "",
        "test_error": [*curve[:-1], error],
        "train_error": curve,
    }
    return row | {"train_loss": curve, "seconds": [2.0] * 10}


def test_the_page_says_what_the_rows_say(tmp_path, monkeypatch):
    """tanh errs 2 points more than the base in every seed but one, where it is 1; no other arm differs."""
    found = {}
    while left := [job for job in missing(runs.errors_of(found)) if job not in found]:
        for job in left:
            worse = (0.01 if job.seed == 3 else 0.02) * (job.suite == "fashion" and job.arm == "tanh")
            off = abs(GRID.index(job.rate) - GRID.index(0.03)) if job.rate in GRID else 0
            found[job] = made_up(job, 0.1 + worse + 0.001 * job.seed + 0.05 * off)
    text = page.PAGE.read_text()
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(page, "rows", lambda: found)
    page.PAGE.write_text(text)
    page.main()
    said = page.PAGE.read_text()
    assert "| tanh, clothes | +1.90 (+1.60 to +2.00), p = 0.002 | holds |" in said
    assert "| no mirror, clothes | +0.00 (+0.00 to +0.00), p = 1.000 | less than half a point |" in said
    assert "| norm in layer 1 only, clothes | +0.00 (+0.00 to +0.00), p = 1.000 | holds |" in said
    assert (
        "| the maximum of a window is better than its mean | CaffeNet, +3.6 | average pooling, clothes"
        in said
    )
    assert "crops at random lower the test error | none" not in said
    assert "| ddp | 10 | 10.45 | +0.00 | +0.00 to +0.00 | 10 of 10 |" in said
    assert "| ReLU | 0.03 | 10 of 10 | 3.0 | 3 to 3 | 6 |" in said
    assert "| tanh over ReLU |  | 10 pairs | 1.67 (1.67 to 1.67), p = 0.002 |  | 1.67 |" in said
    assert "| tanh, CIFAR-10 | 1.67 times the epochs (1.67 to 1.67), p = 0.002 | does not hold |" in said
    assert "| LeNet | 61,706 | 0.42 M | 10 |" in said and said.count("| 10 | 0.1") == 1
    assert len(list(page.PICTURES.iterdir())) == 5
    lacking = {**found}
    del (
        lacking[Job("fashion", BASE, "final", "single", 0.03, 0)],
        lacking[Job("figure 1", "tanh", "final", "single", 0.03, 9)],
    )
    said = tables(families(lacking), lacking)
    assert "| split | 10 | 10.45 | +0.00 | +0.00 to +0.00 | 9 of 9 |" in said["modes"], (
        "pairs are of one seed"
    )
    assert "| tanh over ReLU |  | 9 pairs | 1.67" in said["figure 1"]


def test_the_page_that_is_kept_says_what_its_rows_say(monkeypatch):
    monkeypatch.setattr(runs, "same_code", lambda commit: True)  # which a clone without history cannot say
    text, found = page.PAGE.read_text(), runs.rows()
    assert rewrite(text, tables(families(found), found)) == text
    text = " ".join(text.split())
    of = (totals(load_config(f"configs/{name}.yaml").model) for name in ("alexnet", "textbook", "lenet"))
    full, lecture, small = of
    words = "{:.0f} times the parameters and {:,.0f} times the multiply-adds of LeNet-5"
    assert words.format(*(a / b for a, b in zip(full, small))) in text
    assert "own {:.0f} and {:,.0f} times".format(*(a / b for a, b in zip(lecture, small))) in text
    (clothes, photographs), sizes = (families(found)[suite][0] for suite in FAMILIES), (10_000, 2_848)
    spread = [(f.error * (100 - f.error) / n) ** 0.5 for f, n in zip((clothes, photographs), sizes)]
    assert "{:.2f} points on clothes, {:.2f} on photographs".format(*spread) in text


def test_the_interval_is_that_of_other_peoples_code():
    """scipy.stats.bootstrap(method="BCa") of 200,000 draws; the plain one has 0.2 to 0.86."""
    assert stats.interval(SKEWED) == pytest.approx((0.24, 1.07), abs=0.04)
    low, high = stats.interval(-SKEWED)
    assert (low, high) == pytest.approx((-1.07, -0.24), abs=0.04)
    assert stats.interval(np.full(5, 0.5)) == (0.5, 0.5)


def test_the_flip_test_is_that_of_every_flip_one_by_one():
    arms = np.stack([SKEWED[:5] - 0.3, np.array([1.0, 2, 3, 4, 5]), np.array([-1.0, 1, -2, 2, 0.5])])

    def t(row):
        return abs(row.mean()) / (row.std(ddof=1) / len(row) ** 0.5)

    flips = [arms * np.array(signs) for signs in itertools.product((1, -1), repeat=5)]
    alone = [np.mean([t(flip[arm]) >= t(arms[arm]) - 1e-9 for flip in flips]) for arm in range(3)]
    family = [np.mean([max(map(t, flip)) >= t(arms[arm]) - 1e-9 for flip in flips]) for arm in range(3)]
    found = stats.flip_test(arms)
    assert np.allclose(found[0], alone) and np.allclose(found[1], family)
    assert found[0][1] == 2 / 2**5 and (found[1] >= found[0]).all()


def test_verdicts():
    assert stats.verdict((0.5, 1.5), 0.01, "worse") == "holds"
    assert stats.verdict((-0.1, 1.5), 0.01, "worse") == "holds"
    assert stats.verdict((-1.5, -0.5), 0.01, "worse") == "does not hold"
    assert stats.verdict((0.1, 1.5), 0.2, "worse") == "not at this size"
    assert stats.verdict((-0.4, 0.1), 0.2, "worse") == "less than half a point"
    assert stats.verdict((-0.2, 0.4), 0.01, "same") == "holds"
    assert stats.verdict((0.5, 1.5), 0.01, "same") == "does not hold"
    assert stats.verdict((-0.5, 1.5), 0.4, "same") == "not at this size"
    ends = (6.1, 9.0), (2.0, 5.9), (2.0, 7.0)
    verdicts = [Sooner(5.0, pair, 0.002, 5.0, 10).verdict for pair in ends]
    assert verdicts == ["holds", "does not hold", "not at this size"]


def test_claims_name_arms_that_there_are():
    assert len(claims()) > 9 and isinstance(suites()["fashion"].arms[BASE], Arm) and jobs.CHOICE >= 2
