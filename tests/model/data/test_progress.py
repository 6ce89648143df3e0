from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data import progress
from model.data.progress import Progress, shown_bytes
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(0.0)
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_come_late_and_ever_less_often_and_at_least_twice_a_minute(clock):
    said = []
    lines = Progress(lambda line: said.append((clock.now, line)), "reading", unit="rows")
    for tenth in range(2400):
        clock.now = tenth / 10
        lines.advance(5)
    times = [time for time, _ in said]
    assert times[0] == 1.5
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == [3.0, 6.0, 12.0, 24.0, *[30.0] * (len(pauses) - 4)]
    assert said[0][1] == "reading: 80 rows, 53 rows/s"  # 16 calls by then, 53.3 a second


def test_what_was_there_already_counts_as_done_and_not_as_speed(clock):
    said = []
    lines = Progress(said.append, "fetching a", unit=None, total=100_000_000)
    lines.skip(40_000_000)
    clock.now = 2.0
    lines.advance(20_000_000)
    # 20 MB in 2 s; 40 MB are left
    assert said == ["fetching a: 60.0 MB of 100.0 MB, 10.0 MB/s, 4 s left"]


def test_without_any_speed_no_time_left_is_made_up(clock):
    said = []
    lines = Progress(said.append, "fetching a", unit=None, total=10)
    clock.now = 2.0
    lines.advance(0)
    assert said == ["fetching a: 0.0 MB, 0.0 MB/s"]


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (1_001, "reading: 10 of 1,001 rows, 5 rows/s, 3 min left"),
        (461, "reading: 10 of 461 rows, 5 rows/s, 2 min left"),
        (410, "reading: 10 of 410 rows, 5 rows/s, 80 s left"),
        (90_010, "reading: 10 of 90,010 rows, 5 rows/s, 5 h 00 min left"),
    ],
)
def test_a_long_time_is_told_to_the_minute(clock, total, said):
    lines = []
    progress = Progress(lines.append, "reading", unit="rows", total=total)
    clock.now = 2.0
    progress.advance(10)
    assert lines == [said]


@given(st.integers(0, 10**15))
def test_bytes_are_shown_to_a_tenth_of_a_megabyte(amount):
    shown, unit = shown_bytes(amount).split(" ")
    assert unit == "MB"
    # half a unit of the last digit, and the rounding of the division
    assert abs(float(shown.replace(",", "")) * 1e6 - amount) <= 0.05e6 * (1 + 1e-9) + amount * 1e-15
