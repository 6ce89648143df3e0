"""What a new seed alone changes."""

import pytest

from service.report.record.noise import Noise


def test_two_runs_of_one_configuration_differ_by_less_in_95_of_100_cases():
    # the difference of two normal draws has the deviation √2 · sd
    assert Noise(1.0, 9, "x", "").clear == pytest.approx(2.7719, abs=1e-4)
