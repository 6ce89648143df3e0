import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from model.measurement.loss_spikes import FACTOR, WINDOW, LossSpikes


def losses(n=400, seed=0):
    """A falling, noisy curve."""
    rng = np.random.default_rng(seed)
    return (4 + 6 * np.exp(-np.arange(n) / 80) + 0.05 * rng.standard_normal(n)).tolist()


def spikes_by_definition(values):
    count = 0
    for i in range(WINDOW, len(values)):
        before = values[i - WINDOW : i]
        count += values[i] > np.median(before) + FACTOR * median_abs_deviation(before, scale="normal")
    return count


def counted(values):
    spikes = LossSpikes()
    for value in values:
        spikes.add(value)
    return spikes.count()


def test_a_falling_noisy_curve_has_no_spikes_and_one_put_into_it_is_one():
    curve = losses()
    assert counted(curve) == 0
    curve[300] += 1.0
    assert counted(curve) == 1
    curve[301] += 1.0  # the first does not hide the second
    assert counted(curve) == 2
    curve[200] -= 1.0  # a drop is none
    assert counted(curve) == 2


def test_the_first_steps_are_not_judged():
    assert counted([*[4.0, 4.1] * (WINDOW // 2 - 1), 100.0]) == 0


@settings(max_examples=20)
@given(seed=st.integers(0, 10), jumps=st.dictionaries(st.integers(200, 299), st.floats(0.1, 3), min_size=1))
def test_the_count_is_that_of_the_definition(seed, jumps):
    curve = losses(seed=seed)
    for i, jump in jumps.items():
        curve[i] += jump
    curve = curve[200:300]
    assert counted(curve) == spikes_by_definition(curve)


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(1, 399), max_size=8))
def test_the_count_does_not_depend_on_when_it_is_asked_for_or_the_run_resumed(cuts):
    curve = losses()
    for i in (250, 300, 301, 390):
        curve[i] += 1.0
    spikes = LossSpikes()
    for i, value in enumerate(curve):
        if i in cuts:
            spikes = LossSpikes(count=spikes.count(), losses=spikes.losses)
        spikes.add(value)
    assert spikes.count() == counted(curve) == 4
    assert spikes.count() == 4
    assert len(spikes.losses) == WINDOW
