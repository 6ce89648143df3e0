import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.text.quantities import shortened, shown_number, shown_operations, shown_params, shown_seconds


@pytest.mark.parametrize(
    ("params", "shown"),
    [
        ({}, "–"),
        ({"optimizer.lr": 0.00123456, "training.batch_size": 64}, "lr 0.001235, batch_size 64"),
        ({"model.activation": "gelu", "a.b.clip_norm": None}, "activation gelu, clip_norm None"),
    ],
)
def test_parameters_have_the_last_part_of_their_key(params, shown):
    assert shown_params(params) == shown


@given(st.floats(1e-12, 1e12))
def test_a_number_keeps_four_digits(value):
    # half a unit of the fourth digit is at most 1/2000 of the number
    assert float(shown_number(value)) == pytest.approx(value, rel=1 / 2000)


@given(st.floats(1, 1e30))
def test_operations_keep_four_digits_and_a_bare_power(count):
    shown = shown_operations(count)
    assert re.fullmatch(r"\d\.\d{3}e\d+", shown)
    assert float(shown) == pytest.approx(count, rel=1 / 2000)


@given(st.floats(0, 1e6))
def test_a_duration_reads_back_as_it_was_to_its_last_unit(seconds):
    units = {"s": 1, "min": 60, "h": 3600}
    words = shown_seconds(seconds).split()
    read = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    last = units[words[-1]]
    assert abs(read - seconds) < last


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (45, "45 s"),
        (60, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds, shown):
    assert shown_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown", "on_a_tick"),
    [
        (999, "999", "999"),
        (1234, "1.23 k", "1234"),
        (12345, "12.3 k", "12.35 k"),
        (5e6, "5 M", "5 M"),
        (2.5e9, "2.5 G", "2.5 G"),
        (-3e12, "-3 T", "-3 T"),
        (0.25, "0.25", "0.25"),
    ],
)
def test_large_numbers_of_an_axis_are_shortened(value, shown, on_a_tick):
    assert shortened(value) == shown
    assert shortened(value, digits=4, least=1e4) == on_a_tick
