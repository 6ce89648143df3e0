import math

import numpy as np
import pytest
from scipy import integrate, stats

from service.statistics import correlation, differences, estimate, power, seeds_needed


def test_the_interval_is_that_of_scipys_t_test():
    values = [1.31100, 1.31041, 1.30992, 1.31100]  # document 004's four nominal repeats
    found = estimate(values)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((reference.low, reference.high), rel=1e-12)
    assert found.sd == pytest.approx(np.std(values, ddof=1), rel=1e-12)


def test_the_interval_of_two_is_known_by_hand():
    # mean 2, sd √2, standard error 1, t(0.975; 1) = 12.706
    assert estimate([1.0, 3.0]).interval == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


def test_equal_values_have_no_spread():
    assert estimate([0.1, 0.1, 0.1]).interval == pytest.approx((0.1, 0.1), rel=1e-15)
    assert estimate([0.1, 0.1, 0.1]).sd == 0


def test_one_value_has_no_interval_and_none_no_mean():
    found = estimate([1.5])
    assert (found.n, found.mean, found.sd, found.interval) == (1, 1.5, None, None)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert estimate([]) is None


def test_a_higher_confidence_is_scipys_as_well():
    values = [0.1, 0.4, 0.2]
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.99)
    assert estimate(values, confidence=0.99).interval == pytest.approx((reference.low, reference.high))


def test_differences_are_of_shared_seeds():
    found = differences({1: 5.0, 2: 7.0, 3: 1.0}, {2: 4.0, 1: 1.0, 9: 0.0})
    assert found == {1: 4.0, 2: 3.0}


def test_paired_differences_give_scipys_paired_test():
    left, right = {1: 1.5, 2: 1.6, 3: 1.7}, {1: 2.0, 2: 2.2, 3: 2.4}
    reference = stats.ttest_rel(list(left.values()), list(right.values())).confidence_interval(0.95)
    found = estimate(list(differences(left, right).values()))
    assert found.interval == pytest.approx((reference.low, reference.high), rel=1e-9)


@pytest.mark.parametrize(("difference", "sd", "seeds"), [(1.0, 1.0, 5), (0.5, 1.0, 34), (3.0, 1.0, 3)])
def test_power_is_the_share_of_simulated_intervals_that_exclude_0(difference, sd, seeds):
    generator = np.random.default_rng(1)
    draws = generator.normal(difference, sd, size=(40_000, seeds))
    p_values = stats.ttest_1samp(draws, 0, axis=1).pvalue
    # a share of 40,000 has a standard error of at most 0.0025
    assert power(difference, sd, seeds) == pytest.approx(float((p_values < 0.05).mean()), abs=0.01)


def test_power_is_the_integral_over_the_spread_that_is_met():
    """Normal mean, χ² variance, independent: the noncentral t written out."""
    seeds, shift = 4, 1.3 * math.sqrt(4)
    bound = stats.t.ppf(0.975, seeds - 1)

    def excluded(chi2: float) -> float:
        limit = bound * math.sqrt(chi2 / (seeds - 1))
        outside = stats.norm.sf(limit - shift) + stats.norm.cdf(-limit - shift)
        return outside * stats.chi2.pdf(chi2, seeds - 1)

    assert power(1.3, 1.0, seeds) == pytest.approx(integrate.quad(excluded, 0, 60)[0], abs=1e-6)


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 10), (0.8, 15), (0.5, 34), (0.2, 199), (0.1, 787)])
def test_seeds_needed_are_those_of_the_power_tables(effect, seeds):
    """G*Power, paired t-test, two-sided, α 0.05, power 0.80."""
    assert seeds_needed(effect, 1.0) == seeds
    assert seeds_needed(-effect * 0.003, 0.003) == seeds


@pytest.mark.parametrize("effect", [0.3, 0.7, 1.5, 2.5, 4.0, 8.0])
def test_no_fewer_seeds_would_do(effect):
    needed = seeds_needed(effect, 1.0)
    assert power(effect, 1.0, needed) >= 0.8
    assert needed == 2 or power(effect, 1.0, needed - 1) < 0.8


def test_ends_of_the_search_for_seeds():
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-9, 1.0) is None
    assert seeds_needed(1e9, 1.0) == 2
    assert seeds_needed(0.1, 0.0) == 2
    assert seeds_needed(0.0, 0.0) is None


def test_a_mean_correlation_is_taken_of_fishers_z():
    found = correlation([0.9, 0.99])
    z = estimate([math.atanh(0.9), math.atanh(0.99)])
    assert found.mean == pytest.approx(math.tanh(z.mean))
    assert found.interval == pytest.approx((math.tanh(z.low), math.tanh(z.high)))
    assert -1 < found.low < found.mean < found.high < 1
    assert correlation([-1.0, -1.0]).mean == pytest.approx(-1)
    assert correlation([0.5]).interval is None
