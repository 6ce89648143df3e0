import numpy as np
import pytest
from scipy import stats

from service.search.levels import levelled, unit_of


def test_losses_are_levelled_in_order_and_a_huge_one_does_not_set_the_scale():
    losses = np.array([2.0, 2.1, 2.2, 2.3, 2.5])
    assert stats.spearmanr(losses, levelled(losses)).statistic == pytest.approx(1)
    huge = levelled(np.append(losses, 1e6))
    assert huge[4] - huge[0] > 0.1 * (huge.max() - huge.min())
    assert (huge.mean(), huge.std()) == pytest.approx((0, 1))
    assert np.array_equal(levelled(np.full(3, 2.0)), np.zeros(3))


def test_how_far_a_loss_has_exploded_says_nothing_of_the_others():
    rest = np.array([2.46, 2.49, 2.5, 2.51, 2.53])
    assert np.array_equal(levelled(np.append(rest, 1e3)), levelled(np.append(rest, 1e30)))
    # what sets those around the median apart is no less than a fifth of all
    of_rest = levelled(np.append(rest, 1e3))[:5]
    assert of_rest.max() - of_rest.min() > 0.2 * np.ptp(levelled(np.append(rest, 1e3)))


def test_a_unit_is_what_it_was_below_the_median():
    losses = np.array([2.0, 2.1, 2.2, 2.3, 2.5, 90.0])
    levels = levelled(losses)
    assert (levels[1] - levels[0]) * unit_of(losses) == pytest.approx(0.1)
