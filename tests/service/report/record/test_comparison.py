from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import interp1d

from service.report.record import comparison
from service.report.record.study_record import Arm
from tests.service.report.conftest import evaluation, run_of


def run(arm, seed, losses, *, rungs, rate, flops=10.0):
    curve = tuple(evaluation(rung, loss, rate=rate) for rung, loss in zip(rungs, losses, strict=True))
    return run_of(arm, seed, {"val_loss": losses[-1], "flops_per_token": flops}, curve=curve)


@pytest.fixture
def two_budgets(record):
    """`long` has twice the budget of `short`, half the speed, and, as SAM has, twice the operations of a token."""
    long = [
        run("long", s, (4.0, 3.0, 2.0 + s), rungs=(1280, 2560, 5120), rate=640.0, flops=20.0) for s in (0, 1)
    ]
    short = [run("short", s, (3.5, 2.5), rungs=(1280, 2560), rate=1280.0) for s in (0, 1)]
    return replace(record, arms=(Arm("long", tuple(long)), Arm("short", tuple(short))), baseline="long")


def test_losses_are_compared_where_the_shortest_arm_ends(two_budgets):
    long, short = two_budgets.arms
    point = comparison.common_point(two_budgets, "tokens")
    assert (point.x, point.arm) == (2560, "short")
    assert comparison.losses_within(long, "tokens", point.x) == {0: 3.0, 1: 3.0}
    assert comparison.losses_within(short, "tokens", point.x) == {0: 2.5, 1: 2.5}
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
    assert (point.x, point.arm) == (2.0, "short")  # 2560 tokens at 1280 a second
    # its first rung, 1280 tokens at 640 a second
    assert comparison.losses_within(long, "seconds", 2.0) == {0: 4.0, 1: 4.0}
    assert comparison.losses_within(long, "seconds", 6.0) == {0: 2.5, 1: 3.0}  # half-way from 4 s to 8 s
    assert comparison.losses_within(long, "steps", 15) == {0: 3.5, 1: 3.5}  # half-way from step 10 to step 20


def test_operations_are_those_of_a_token_times_the_tokens(two_budgets):
    long, short = two_budgets.arms
    assert comparison.ends(long, "FLOPs") == [102_400, 102_400]  # 5,120 tokens of 20 each
    assert comparison.common_point(two_budgets, "FLOPs") == comparison.Point("FLOPs", 25_600, "short")
    # 38,400 operations: 1,920 tokens of the one, half-way from its first rung to its second
    assert comparison.losses_within(long, "FLOPs", 38_400) == {0: 3.5, 1: 3.5}
    unknown = replace(short, runs=tuple(replace(each, metrics={}) for each in short.runs))
    assert comparison.losses_within(unknown, "FLOPs", 38_400) == {}
    assert comparison.end_of(unknown, "FLOPs") is None


def test_within_the_budget_of_another_arm_a_run_that_ends_before_stands_with_its_end(two_budgets):
    long, short = two_budgets.arms
    point = comparison.end_of(long, "FLOPs")
    assert (point.x, point.arm) == (102_400, "long")
    assert comparison.losses_within(short, "FLOPs", point.x) == {0: 2.5, 1: 2.5}
    assert comparison.ends_before(short, point)
    assert not comparison.ends_before(long, point)
    assert not comparison.goes_on(long, point)


def test_an_arm_never_ends_before_its_own_end(two_budgets):
    long = two_budgets.arms[0]
    slower = run("long", 2, (4.0, 3.0), rungs=(1280, 5120), rate=320.0)
    uneven = replace(long, runs=(*long.runs, slower))
    point = comparison.end_of(uneven, "seconds")
    assert point.x == 16.0  # that of its slowest run: its own loss is that of whole runs
    assert not comparison.ends_before(uneven, point)
    assert comparison.losses_within(uneven, "seconds", point.x) == {0: 2.0, 1: 3.0, 2: 3.0}


def test_nothing_is_extrapolated(two_budgets):
    long = two_budgets.arms[0].runs[0]
    assert comparison.loss_within(long, "tokens", 1279) is None
    assert comparison.loss_within(long, "tokens", 1280) == 4.0
    assert comparison.loss_within(long, "tokens", 9999) == 2.0


def test_a_run_that_broke_off_does_not_set_the_point(two_budgets):
    cut = run("short", 2, (3.5,), rungs=(640,), rate=1280.0)
    short = replace(two_budgets.arms[1], runs=(*two_budgets.arms[1].runs, replace(cut, state="diverged")))
    with_cut = replace(two_budgets, arms=(two_budgets.arms[0], short))
    assert comparison.common_point(with_cut, "tokens").x == 2560
    assert comparison.common_point(replace(with_cut, arms=()), "tokens") is None


@st.composite
def curves(draw):
    """A run over distinct rungs, in whole steps of 128 tokens."""
    steps = sorted(draw(st.sets(st.integers(1, 10_000), min_size=1, max_size=8)))
    losses = draw(st.lists(st.floats(0.5, 12.0), min_size=len(steps), max_size=len(steps)))
    flops = draw(st.floats(1e3, 1e12))
    return run(
        "a",
        0,
        tuple(losses),
        rungs=[128 * step for step in steps],
        rate=draw(st.floats(1.0, 1e6)),
        flops=flops,
    )


@given(curves(), st.sampled_from(comparison.RESOURCES), st.floats(0.0, 1.0))
def test_a_loss_lies_between_those_of_the_rungs_around_it(found, axis, share):
    xs, losses = comparison.positions(found, axis), [row["val_loss"] for row in found.curve]
    x = xs[0] + share * (xs[-1] - xs[0])
    after = int(np.searchsorted(xs, x))
    around = losses[max(after - 1, 0) : after + 1] or losses[-1:]
    loss = comparison.loss_within(found, axis, x)
    assert min(around) - 1e-9 <= loss <= max(around) + 1e-9
    if len(xs) > 1:
        expected = interp1d(xs, losses)(min(x, xs[-1]))
        # a slope times the rounding of x, which is that of the largest one
        assert loss == pytest.approx(float(expected), abs=1e-9)


@given(curves(), st.sampled_from(comparison.RESOURCES))
def test_at_a_rung_the_loss_is_that_of_its_evaluation(found, axis):
    for x, row in zip(comparison.positions(found, axis), found.curve, strict=True):
        assert comparison.loss_within(found, axis, x) == row["val_loss"]


@given(curves(), st.floats(0.0, 2.0))
def test_equal_tokens_and_equal_operations_are_one_budget_for_one_model(found, share):
    end = comparison.positions(found, "tokens")[-1]
    tokens = comparison.loss_within(found, "tokens", share * end)
    flops = comparison.loss_within(found, "FLOPs", share * end * found.metrics["flops_per_token"])
    if tokens is not None and flops is not None:  # rounding may put one of them before the first rung
        assert flops == pytest.approx(tokens, abs=1e-9)


@given(st.lists(st.floats(0.5, 12.0), min_size=2, max_size=8), st.floats(1280, 1e5), st.floats(1280, 1e5))
def test_a_larger_budget_never_raises_a_falling_curve(losses, one, other):
    falling = run(
        "a",
        0,
        tuple(sorted(losses, reverse=True)),
        rungs=[1280 * i for i in range(1, len(losses) + 1)],
        rate=1.0,
    )
    small, large = sorted((one, other))
    assert (
        comparison.loss_within(falling, "tokens", large)
        <= comparison.loss_within(falling, "tokens", small) + 1e-9
    )
