"""What a new seed alone changes."""

import math

import pytest

from service.report.record.noise import Noise, pooled_sd


def test_deviations_are_pooled_over_the_configurations_by_their_degrees_of_freedom():
    # variances 1 (n 3) and 2 (n 2): (2 · 1 + 1 · 2) / 3
    found = pooled_sd(
        {"a": {1: 1.0, 2: 2.0, 3: 3.0}, "b": {1: 4.0, 2: 6.0}, "c": {1: 9.0}, "d": {1: math.inf, 2: 1.0}}
    )
    assert found == (pytest.approx(math.sqrt(4 / 3)), 5)
    assert pooled_sd({"a": {1: 1.0}}) is None


def test_two_runs_of_one_configuration_differ_by_less_in_95_of_100_cases():
    # the difference of two normal draws has the deviation √2 · sd
    assert Noise(1.0, 9, "x", "").clear == pytest.approx(2.7719, abs=1e-4)
