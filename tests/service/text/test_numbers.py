import math

import pytest

from service.statistics import estimate
from service.text.numbers import interval, mean_and_sd, number, with_interval


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (27172864, "27,172,864"), (1.75325893, "1.7533"), (0.0814, "0.0814"), (0.00001234567, "1.2346e-05"),
        (264240.4, "264,240"), (0.0, "0"), (-3.0, "-3"), (math.nan, "nan"), (-math.inf, "-inf"), (64.51, "64.51"),
    ],
)  # fmt: skip
def test_a_number_alone_has_five_digits(value, shown):
    assert number(value) == shown


def test_a_mean_is_written_down_to_its_spreads_second_digit():
    found = estimate([1.31100, 1.31041, 1.30992, 1.31100])
    assert mean_and_sd(found) == "1.31058 ± 0.00052"
    assert interval(found) == "1.30975 to 1.31141"
    assert with_interval(found) == "1.31058 (95 % interval 1.30975 to 1.31141, 4 seeds)"
    assert mean_and_sd(estimate([1000.0, 3000.0])) == "2,000 ± 1,414"
    assert mean_and_sd(estimate([0.1 + 0.2, 0.3])) == "0.3"


def test_without_a_spread_it_says_so():
    assert (mean_and_sd(None), interval(None)) == ("–", "–")
    assert with_interval(estimate([1.5])) == "1.5 (one seed: no interval)"
    assert interval(estimate([1.5])) == "–"
    assert with_interval(estimate([2.0, 2.0])) == "2 (the same with every seed)"
