"""The winner's lead on held-out titles: intervals in cases with an exact answer, and error rates by simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from model.measurement.evaluation import SplitScore
from service.confirmation.verdict import confidence, picks
from service.held_out.advantage import advantage, crossed_interval

TIMES = 2000
NOMINAL = 0.025


def test_where_titles_do_not_differ_it_is_the_t_interval_over_seeds():
    characters = np.full(30, 7)
    of_seeds = np.array([0.1, -0.2, 0.4])
    expected = scipy.stats.ttest_1samp(of_seeds, 0).confidence_interval(0.9)
    found = crossed_interval(of_seeds[:, None] * characters, characters, confidence=0.9)
    assert found == pytest.approx((expected.low, expected.high))


def test_where_seeds_do_not_differ_it_is_that_of_a_ratio_over_titles():
    generator = np.random.default_rng(1)
    characters = generator.integers(10, 80, size=400)
    nats = characters * generator.gamma(4, 0.5, size=400)
    # SciPy's bootstrap of the ratio, whose 2,000 draws know a quantile to 0.06 standard errors: 5 of them
    expected = scipy.stats.bootstrap(
        (nats, characters), lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True, method="percentile", n_resamples=2000, rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    found = crossed_interval(np.array([nats, nats, nats]), characters)
    assert found == pytest.approx(tuple(expected), abs=5 * 0.06 * (expected.high - expected.low) / 3.92)


def test_what_is_in_the_cells_alone_is_counted_once():
    nats = np.random.default_rng(3).standard_normal((4, 500))
    of_seeds = scipy.stats.ttest_1samp(nats.mean(axis=1), 0).confidence_interval()
    low, high = crossed_interval(nats, np.ones(500, int))
    assert high - low == pytest.approx(of_seeds.high - of_seeds.low, rel=0.15)


def losses(generator, seeds, parts, titles=40):
    """Differences of a mean of 0 by seed and title; `parts` are the deviations of the mean by seeds, titles, cells."""
    by_seeds, by_titles, by_cells = parts
    return (
        by_seeds * math.sqrt(seeds) * generator.standard_normal((seeds, 1))
        + by_titles * math.sqrt(titles) * generator.standard_normal(titles)
        + by_cells * math.sqrt(seeds * titles) * generator.standard_normal((seeds, titles))
    )


@pytest.mark.parametrize(
    ("seeds", "parts"),
    [
        (2, (1, 0.25, 0.3)), (2, (1, 1, 0.3)), (3, (1, 0.5, 0.3)), (5, (1, 1, 0.3)), (5, (1, 4, 0.3)),
        (5, (0, 0, 1)), (8, (1, 1, 0.3)), (20, (1, 1, 0.3)),
    ],
)  # fmt: skip
def test_where_there_is_no_advantage_none_holds_but_in_the_nominal_share(seeds, parts):
    generator, characters = np.random.default_rng(4), np.ones(40, int)
    intervals = [crossed_interval(losses(generator, seeds, parts), characters) for _ in range(TIMES)]
    ahead = np.mean([high < 0 for _, high in intervals])
    assert 0.005 < ahead <= NOMINAL + 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / TIMES)


def test_of_five_equal_finalists_none_holds_but_in_the_nominal_share_though_one_was_picked():
    generator, seeds, titles = np.random.default_rng(5), 5, 40
    ahead, means = 0, []
    for _ in range(TIMES):
        runs = generator.standard_normal(
            (6, seeds)
        )  # the same luck on the validation split as on held-out titles
        nats = runs[..., None] + losses(generator, seeds, (0, 0.3, 0.1), titles)
        nats[5] = runs[5][:, None] + losses(generator, seeds, (0, 0.3, 0.1), titles)  # the baseline
        finalists = {str(arm): dict(enumerate(map(float, runs[arm]))) for arm in range(5)}
        picked = picks(finalists)
        scored = [
            {
                seed: SplitScore(nats[arm, seed], np.ones(titles, int), tokens=1, utf8_bytes=1)
                for seed in range(seeds)
            }
            for arm in range(6)
        ]
        found = advantage(
            picked,
            {seed: scored[int(arm)][seed] for seed, arm in picked.items()},
            scored[5],
            {seed: finalists[arm][seed] for seed, arm in picked.items()},
            dict(enumerate(map(float, runs[5]))),
            finalists=5,
        )
        ahead += found.holds
        means.append(found.over_seeds.mean)
    assert ahead / TIMES <= NOMINAL
    assert abs(np.mean(means)) < 3 * np.std(means) / math.sqrt(TIMES)


def test_one_seed_has_no_interval_and_holds_nothing():
    score = {7: SplitScore(np.array([1.0, 2.0]), np.array([3, 4]), tokens=1, utf8_bytes=1)}
    found = advantage({7: "a"}, score, score, {7: 1.0}, {7: 2.0}, finalists=1)
    assert (found.over_both, found.holds) == (None, False)


def test_the_more_were_picked_from_the_wider():
    assert [confidence(1), confidence(5)] == pytest.approx([0.95, 0.99])
