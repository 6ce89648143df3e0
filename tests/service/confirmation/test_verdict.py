import math

import numpy as np
import pytest
import scipy.stats

from service.confirmation import verdict as verdicts
from service.confirmation.elimination import MIN_SEEDS, worse
from service.confirmation.verdict import cross_fitted, judge, picks, probabilities_best
from service.study.design import BASELINE
from tests.service.confirmation.conftest import SEEDS, losses

T2 = 4.302653  # t(0.975; 2)
FEW_DRAWS = 0.0065  # four standard errors of a share of 100,000 draws


def test_means_and_paired_intervals_are_those_computed_by_hand(clear):
    a, b, baseline = clear.standings
    assert [s.arm for s in clear.standings] == ["a", "b", BASELINE]
    assert (a.rerun.n, a.rerun.mean, a.rerun.sd) == pytest.approx((3, 2.1, 0.1))
    half = T2 * 0.1 / math.sqrt(3)
    assert a.to_baseline.mean == pytest.approx(-1.0)
    assert a.to_baseline.interval == pytest.approx((-1.0 - half, -1.0 + half))
    assert baseline.to_best.interval == pytest.approx((1.0 - half, 1.0 + half))
    assert b.to_best.mean == pytest.approx(0.5)  # of 0.52, 0.5, 0.48
    assert a.to_best is baseline.to_baseline is None


def test_the_winners_curse_is_what_the_search_said_minus_the_mean_of_the_reruns(clear):
    a, b, baseline = clear.standings
    half = T2 * 0.1 / math.sqrt(3)
    assert a.curse.mean == pytest.approx(1.9 - 2.1)
    assert a.curse.interval == pytest.approx((-0.2 - half, -0.2 + half))
    assert b.curse.mean == pytest.approx(0.0)
    assert baseline.curse is None


def test_the_winners_curse_is_of_the_seeds_before_any_was_dropped():
    seeds = range(5)
    found = {
        BASELINE: dict.fromkeys(seeds, 3.0),
        "a": dict(enumerate([2.0, 2.1, 2.2, 9.0, 9.0])),
        "b": dict(enumerate([2.6, 2.5, 2.4])),
    }
    a, b = (next(s for s in judge(found, seeds, {"a": 2.0, "b": 2.0}).standings if s.arm == x) for x in "ab")
    assert (a.curse.n, a.curse.mean) == pytest.approx((3, -0.1))
    assert (b.curse.n, b.curse.mean) == pytest.approx((3, -0.5))


def test_the_gain_is_measured_on_seeds_that_it_was_not_picked_by():
    # on seed 7 the others' means are 1.5 and 2.0, on 8 they are 1.5 and 1.0, on 9 2.0 and 1.0
    finalists = losses(a=[2.0, 2.0, 1.0], b=[0.0, 2.0, 2.0])
    assert picks(finalists) == {7: "a", 8: "b", 9: "b"}
    gain = judge(losses(baseline=[3.0, 3.5, 3.0]) | finalists, SEEDS, {}).gain
    # 2 - 3, 2 - 3.5, 2 - 3; b has the lowest mean, and its own is -1.8
    assert (gain.n, gain.mean) == pytest.approx((3, -7 / 6))
    half = scipy.stats.t.ppf(1 - 0.025 / 2, 2) * gain.sd / math.sqrt(3)  # of two finalists
    assert gain.interval == pytest.approx((-7 / 6 - half, -7 / 6 + half))


def test_of_one_finalist_the_gain_is_the_paired_difference():
    verdict = judge(losses(baseline=[3.0, 3.2, 3.1], a=[2.9, 3.15, 3.12]), SEEDS, {})
    reference = scipy.stats.ttest_rel([2.9, 3.15, 3.12], [3.0, 3.2, 3.1]).confidence_interval(0.95)
    assert verdict.gain.interval == pytest.approx((reference.low, reference.high))


def test_what_did_not_finish_is_out_however_low_its_mean():
    found = losses(baseline=[3.0, 3.2, 3.1], diverged=[1.0, math.inf], failed=[1.0, 1.1], a=[2.0, 2.3, 2.1])
    verdict = judge(found, SEEDS, {})
    assert verdict.best.arm == "a"
    out = {standing.arm: standing.out for standing in verdict.standings}
    assert out == {
        "a": None,
        BASELINE: "worse than a, after 3 seeds",
        "diverged": "a run of it diverged or did not fit into memory, after 2 seeds",
        "failed": "1 of 3 runs did not finish",
    }
    assert [s.probability_best is None for s in verdict.standings] == [False, True, True, True]


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


TIMES = 2000


def confirmations(means, seeds, *, noise="normal"):
    """Losses of confirmations whose finalists have these true means and the baseline 0; one unit of spread."""
    generator = np.random.default_rng(5)
    shape = len(means) + 1, seeds
    for _ in range(TIMES):
        match noise:
            case "normal":
                drawn = generator.standard_normal(shape)
            case "skewed":
                drawn = generator.exponential(size=shape) - 1
            case "bad seeds":
                drawn = generator.standard_normal(shape) + 10 * ((generator.random(shape) < 0.05) - 0.05)
        drawn += np.array([0.0, *means])[:, None]
        names = (BASELINE, *map(str, range(len(means))))
        yield {name: dict(enumerate(map(float, row))) for name, row in zip(names, drawn, strict=True)}


@pytest.mark.parametrize(
    ("means", "seeds", "noise", "bias"),
    [
        ([0] * 5, 2, "normal", (0, 0)),
        ([0] * 5, 5, "normal", (0, 0)),
        ([0] * 5, 5, "skewed", (0, 0)),
        ([0] * 5, 5, "bad seeds", (0, 0)),
        ([0] * 20, 5, "normal", (0, 0)),
        ([0, 0.3, 0.6, 0.9, 1.2], 5, "normal", (0, 0.05)),
        ([0, 3, 3, 3, 3], 2, "normal", (0.1, 0.16)),
        ([0, 0], 8, "normal", (0, 0)),
        ([0], 5, "normal", (0, 0)),
    ],
)
def test_the_gain_has_the_bias_the_coverage_and_the_errors_that_the_docstring_says(means, seeds, noise, bias):
    errors, covers, better = [], [], []
    for found in confirmations(means, seeds, noise=noise):
        out = worse(found, range(seeds), ended=True)
        finalists = {arm: own for arm, own in found.items() if arm != BASELINE and arm not in out}
        if not finalists:
            continue
        true = means[int(min(finalists, key=lambda arm: sum(finalists[arm].values())))]
        gain = cross_fitted(finalists, found[BASELINE])
        errors.append(gain.mean - true)
        covers.append(gain.low <= true <= gain.high)
        better.append(gain.high < 0)
    monte_carlo = 3 * np.std(errors) / math.sqrt(len(errors))
    assert bias[0] - monte_carlo <= np.mean(errors) <= bias[1] + monte_carlo
    share = 3 * math.sqrt(0.05 * 0.95 / TIMES)
    assert np.mean(covers) >= 0.95 - share
    nominal = 0.025 if len(means) == 1 else 0.02
    assert np.mean(better) <= nominal + 3 * math.sqrt(nominal * (1 - nominal) / TIMES)


def test_the_winners_curse_is_not_biased_by_dropping():
    seeds, means = 8, [0, 0, 4, 4, 4]
    first, all_seeds, gone = [], [], 0
    for found in confirmations(means, seeds):
        out = worse(found, range(seeds))
        for arm, own in found.items():
            if arm in out and arm != BASELINE:
                gone += 1
                own = {seed: own[seed] for seed in range(out[arm].seeds)}
            if arm != BASELINE:
                true = means[int(arm)]
                first.append(verdicts._curse(true, own, range(seeds)).mean)
                all_seeds.append(true - np.mean(list(own.values())))
    assert gone > 0.5 * len(first)
    monte_carlo = 3 / math.sqrt(MIN_SEEDS * len(first))
    assert abs(np.mean(first)) < monte_carlo
    assert np.mean(all_seeds) < -monte_carlo  # what it was
