import math

import numpy as np
import pytest
import scipy.stats

from service.confirmation.page import sentence, tables
from service.confirmation.verdict import judge, probabilities_best
from service.study.design import BASELINE

SEEDS = (7, 8, 9)
T2 = 4.302653  # t(0.975; 2)
FEW_DRAWS = 0.0065  # four standard errors of a share of 100,000 draws


def losses(**arms):
    return {arm: dict(zip(SEEDS, values, strict=False)) for arm, values in arms.items()}


@pytest.fixture
def clear():
    """`a` is better than the baseline by 1.0, 1.1 and 0.9."""
    found = losses(baseline=[3.0, 3.2, 3.1], a=[2.0, 2.1, 2.2], b=[2.65, 2.45, 2.7])
    return judge(found, SEEDS, {"a": 1.9, "b": 2.6})


def test_means_and_paired_intervals_are_those_computed_by_hand(clear):
    a, b, baseline = clear.standings
    assert [s.arm for s in clear.standings] == ["a", "b", BASELINE]
    assert (a.rerun.n, a.rerun.mean, a.rerun.sd) == pytest.approx((3, 2.1, 0.1))
    half = T2 * 0.1 / math.sqrt(3)
    assert a.to_baseline.mean == pytest.approx(-1.0)
    assert a.to_baseline.interval == pytest.approx((-1.0 - half, -1.0 + half))
    assert baseline.to_best.interval == pytest.approx((1.0 - half, 1.0 + half))
    assert b.to_best.mean == pytest.approx(0.5)  # of 0.65, 0.35, 0.5
    assert a.to_best is baseline.to_baseline is None


def test_the_winners_curse_is_what_the_search_said_minus_the_mean_of_the_reruns(clear):
    a, b, baseline = clear.standings
    half = T2 * 0.1 / math.sqrt(3)
    assert a.curse.mean == pytest.approx(1.9 - 2.1)
    assert a.curse.interval == pytest.approx((-0.2 - half, -0.2 + half))
    assert b.curse.mean == pytest.approx(0.0)
    assert baseline.curse is None


def test_what_is_clear_is_said_to_be_clear(clear):
    assert clear.ties == ()
    assert sentence(clear).startswith(
        "a is the best over 3 seeds; -1.00 (95 % interval -1.25 to -0.75, 3 seeds)"
    )


def test_a_tie_is_said_to_be_a_tie():
    verdict = judge(losses(baseline=[3.0, 3.2, 3.1], a=[2.0, 2.2, 2.1], b=[2.1, 2.1, 2.2]), SEEDS, {})
    assert verdict.best.arm == "a"
    assert verdict.ties == ("b",)
    assert sentence(verdict).startswith(
        "a tie: a has the lowest mean over 3 seeds and cannot be told from b;"
    )
    assert [row[-1] for row in next(iter(tables(verdict).values())).rows] == [
        "best of a tie", "tied with the best", "worse than the best",
    ]  # fmt: skip


def test_the_baseline_may_be_the_best():
    verdict = judge(losses(baseline=[1.0, 1.1, 1.2], a=[2.0, 2.1, 2.2]), SEEDS, {})
    assert verdict.best.arm == BASELINE
    assert (
        sentence(verdict)
        == "baseline is the best over 3 seeds; no finalist has a lower mean than the baseline"
    )


def test_what_did_not_finish_is_out_however_low_its_mean():
    found = losses(baseline=[3.0, 3.2, 3.1], diverged=[1.0, math.inf], failed=[1.0, 1.1], a=[2.0, 2.3, 2.1])
    verdict = judge(found, SEEDS, {})
    assert verdict.best.arm == "a"
    out = {standing.arm: standing.out for standing in verdict.standings}
    assert out == {
        "a": None,
        BASELINE: None,
        "diverged": "a run of it diverged or did not fit into memory, after 2 seeds",
        "failed": "1 of 3 runs did not finish",
    }
    assert [s.probability_best is None for s in verdict.standings] == [False, False, True, True]


def test_where_all_are_out_there_is_no_best():
    assert judge(losses(baseline=[3.0], a=[2.0]), SEEDS, {}).best is None


def test_of_two_arms_the_probability_is_that_of_the_paired_t_test():
    generator = np.random.default_rng(1)
    pairs = generator.normal(size=(5, 1)) + generator.normal(0, 0.3, size=(5, 2)) + [0.0, 0.4]
    expected = 1 - scipy.stats.ttest_rel(pairs[:, 0], pairs[:, 1], alternative="less").pvalue
    assert 0.5 < expected < 0.999
    assert probabilities_best(pairs) == pytest.approx([expected, 1 - expected], abs=FEW_DRAWS)


def test_of_three_arms_the_probabilities_are_those_of_scipys_multivariate_t():
    generator = np.random.default_rng(2)
    runs = generator.normal(size=(6, 1)) + generator.normal(0, 0.3, size=(6, 3)) + [0.0, 0.05, 0.1]
    student = scipy.stats.multivariate_t(runs.mean(axis=0), np.cov(runs.T) / 6, df=5, seed=3)
    drawn = student.rvs(100_000).argmin(axis=1)
    expected = np.bincount(drawn, minlength=3) / 100_000
    assert expected.min() > 0.005
    assert probabilities_best(runs) == pytest.approx(expected, abs=2 * FEW_DRAWS)


def test_equal_arms_share_the_probability():
    assert probabilities_best(np.ones((3, 4))) == [0.25] * 4
