from dataclasses import replace

import pytest

from service.report import comparison
from service.report.record import Arm
from tests.service.report.conftest import evaluation, run_of


def run(arm, seed, losses, *, rungs, rate):
    curve = tuple(evaluation(rung, loss, rate=rate) for rung, loss in zip(rungs, losses, strict=True))
    return run_of(arm, seed, {"val_loss": losses[-1]}, curve=curve)


@pytest.fixture
def two_budgets(record):
    """`long` has twice the budget of `short`, and half the speed."""
    long = [run("long", s, (4.0, 3.0, 2.0 + s), rungs=(1280, 2560, 5120), rate=640.0) for s in (0, 1)]
    short = [run("short", s, (3.5, 2.5), rungs=(1280, 2560), rate=1280.0) for s in (0, 1)]
    return replace(record, arms=(Arm("long", tuple(long)), Arm("short", tuple(short))), baseline="long")


def test_losses_are_compared_where_the_shortest_arm_ends(two_budgets):
    long, short = two_budgets.arms
    point = comparison.common_point(two_budgets, "tokens")
    assert (point.x, point.shortest) == (2560, "short")
    assert comparison.losses_at(long, "tokens", point.x) == {0: 3.0, 1: 3.0}
    assert comparison.losses_at(short, "tokens", point.x) == {0: 2.5, 1: 2.5}
    assert comparison.is_unfinished(long, point)
    assert not comparison.is_unfinished(short, point)


def test_a_constant_rate_has_no_unfinished_schedule(two_budgets):
    long = two_budgets.arms[0]
    runs = tuple(replace(run, config={"schedule": {"decay": "constant"}}) for run in long.runs)
    point = comparison.common_point(two_budgets, "tokens")
    constant = replace(long, runs=runs)
    assert comparison.goes_on(constant, point)
    assert not comparison.is_unfinished(constant, point)


def test_between_rungs_losses_are_interpolated(two_budgets):
    long = two_budgets.arms[0]
    point = comparison.common_point(two_budgets, "seconds")
    assert (point.x, point.shortest) == (2.0, "short")  # 2560 tokens at 1280 a second
    assert comparison.losses_at(long, "seconds", 2.0) == {
        0: 4.0,
        1: 4.0,
    }  # its first rung, 1280 tokens at 640 a second
    assert comparison.losses_at(long, "seconds", 6.0) == {0: 2.5, 1: 3.0}  # half-way from 4 s to 8 s
    assert comparison.losses_at(long, "steps", 15) == {0: 3.5, 1: 3.5}  # half-way from step 10 to step 20


def test_nothing_is_extrapolated(two_budgets):
    long = two_budgets.arms[0].runs[0]
    assert comparison.loss_at(long, "tokens", 1279) is None
    assert comparison.loss_at(long, "tokens", 5121) is None
    assert comparison.loss_at(long, "tokens", 1280) == 4.0


def test_a_run_that_broke_off_does_not_set_the_point(two_budgets):
    cut = run("short", 2, (3.5,), rungs=(640,), rate=1280.0)
    short = replace(two_budgets.arms[1], runs=(*two_budgets.arms[1].runs, replace(cut, state="diverged")))
    with_cut = replace(two_budgets, arms=(two_budgets.arms[0], short))
    assert comparison.common_point(with_cut, "tokens").x == 2560
    assert comparison.common_point(replace(with_cut, arms=()), "tokens") is None
