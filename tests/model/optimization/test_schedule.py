import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config.optimization import ScheduleConfig
from model.optimization.schedule import factor_at, floor_share, learning_rate_factor

DECAYS = ["constant", "linear", "cosine", "wsd"]
progresses = st.floats(1e-6, 1.0)
floors = st.floats(0.0, 1.0)


@st.composite
def schedules(draw, decays=tuple(DECAYS), shapes=("linear", "cosine", "sqrt")):
    warmup = draw(st.floats(0.0, 0.9))
    return ScheduleConfig(
        decay=draw(st.sampled_from(decays)),
        warmup_fraction=warmup,
        decay_fraction=draw(st.floats(0.01, 1 - warmup)) if warmup < 0.9 else 0.05,
        decay_shape=draw(st.sampled_from(shapes)),
    )


def torch_rates(scheduler_class, epochs, **arguments):
    """The factors that one of torch's schedulers gives before each of `epochs` + 1 epochs."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr=1.0)
    scheduler = scheduler_class(optimizer, **arguments)
    rates = []
    for _ in range(epochs + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def rates(total_steps, schedule, peak_lr=1.0):
    return [learning_rate_factor(s, total_steps, schedule, peak_lr=peak_lr) for s in range(total_steps)]


@given(schedules(), progresses, floors)
def test_factor_is_above_zero_or_the_floor_and_at_most_one(schedule, progress, floor):
    factor = factor_at(progress, schedule, floor=floor)
    assert 0 <= factor <= 1
    if progress < 0.999:
        assert factor > 0
    if progress >= schedule.warmup_fraction:
        assert factor >= floor - 1e-15  # one rounding of the interpolation


@given(schedules(), floors, progresses, progresses)
def test_factor_rises_in_warmup_and_falls_after_it(schedule, floor, one, other):
    early, late = sorted((one, other))
    first, second = (factor_at(p, schedule, floor=floor) for p in (early, late))
    rounding = 1e-14  # cos and the interpolation, each to one unit in the last place
    if late < schedule.warmup_fraction:
        assert first <= second
    elif early >= schedule.warmup_fraction:
        assert first >= second - rounding


@given(schedules(shapes=("linear", "cosine")), floors, progresses)  # the slope of sqrt begins without bound
def test_factor_is_continuous(schedule, floor, progress):
    near = min(1.0, progress + 1e-9)
    steepest = max(
        1 / max(schedule.warmup_fraction, 1e-6),
        math.pi / 2 / (1 - schedule.warmup_fraction),
        math.pi / 2 / schedule.decay_fraction,
    )
    change = abs(factor_at(near, schedule, floor=floor) - factor_at(progress, schedule, floor=floor))
    assert change <= 1.01e-9 * steepest + 1e-14


@given(schedules(decays=("linear", "cosine", "wsd")), floors)
def test_decay_ends_at_the_floor_to_the_bit(schedule, floor):
    assert factor_at(1.0, schedule, floor=floor) == floor


@given(schedules(), floors)
def test_warmup_ends_at_the_peak(schedule, floor):
    # wsd may begin to fall where the warm-up ends, and 1 - (1 - w) is not w to the bit: 1e-16 of 0.01, of which
    # sqrt takes the root
    at_end = factor_at(max(schedule.warmup_fraction, 1e-12), schedule, floor=floor)
    assert at_end == pytest.approx(1.0, abs=1e-9 if schedule.decay_shape != "sqrt" else 1e-5)


@given(schedules(), st.integers(1, 500))
def test_first_update_has_a_rate_above_zero_and_the_last_has_the_floor(schedule, total_steps):
    schedule = schedule.model_copy(update={"floor_fraction": 0.0})
    assert learning_rate_factor(0, total_steps, schedule, peak_lr=1.0) > 0
    if total_steps > 1 and schedule.decay != "constant":
        assert learning_rate_factor(total_steps - 1, total_steps, schedule, peak_lr=1.0) == 0


@pytest.mark.parametrize("decay", DECAYS)
def test_a_run_of_one_update_takes_it_at_the_peak(decay):
    schedule = ScheduleConfig(decay=decay, floor_fraction=0.0)
    assert rates(1, schedule) == [1.0]


def test_cosine_is_torchs_cosine_annealing():
    schedule = ScheduleConfig(decay="cosine", warmup_fraction=0.0, floor_fraction=0.1)
    expected = torch_rates(torch.optim.lr_scheduler.CosineAnnealingLR, 40, T_max=40, eta_min=0.1)
    # torch multiplies from epoch to epoch, so its rounding adds up
    assert rates(40, schedule) == pytest.approx(expected[1:], rel=1e-12)


def test_cosine_after_warmup_is_torchs_over_what_is_left():
    schedule = ScheduleConfig(decay="cosine", warmup_fraction=0.2, floor_fraction=0.25)
    expected = torch_rates(torch.optim.lr_scheduler.CosineAnnealingLR, 40, T_max=40, eta_min=0.25)
    assert rates(50, schedule)[9:] == pytest.approx(expected, rel=1e-12)


def test_linear_is_torchs_linear_lr():
    schedule = ScheduleConfig(decay="linear", warmup_fraction=0.0, floor_fraction=0.3)
    expected = torch_rates(
        torch.optim.lr_scheduler.LinearLR, 30, start_factor=1.0, end_factor=0.3, total_iters=30
    )
    assert rates(30, schedule) == pytest.approx(expected[1:], rel=1e-12)


def test_warmup_is_torchs_linear_lr_from_one_over_n():
    schedule = ScheduleConfig(decay="constant", warmup_fraction=0.25)
    expected = torch_rates(torch.optim.lr_scheduler.LinearLR, 20, start_factor=1 / 5, total_iters=4)
    assert rates(20, schedule) == pytest.approx(expected[:20], rel=1e-12)


def test_wsd_by_hand():
    schedule = ScheduleConfig(decay="wsd", warmup_fraction=0.2, decay_fraction=0.4, floor_fraction=0.2)
    # (step + 1) / 10: two of warm-up, four at the peak, four down by 0.8 / 4 each
    assert rates(10, schedule) == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    ("shape", "tail"),
    [  # after 1/4, 2/4, 3/4 and all of the decay, by hand
        ("linear", [0.75, 0.5, 0.25, 0]),
        ("cosine", [(2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0]),
        ("sqrt", [0.5, 1 - math.sqrt(2) / 2, 1 - math.sqrt(3) / 2, 0]),
    ],
)
def test_the_shapes_of_wsds_decay_by_hand(shape, tail):
    schedule = ScheduleConfig(
        decay="wsd", warmup_fraction=0.2, decay_fraction=0.4, decay_shape=shape, floor_fraction=0.2
    )
    assert rates(10, schedule) == pytest.approx([0.5, 1, 1, 1, 1, 1, *(0.2 + 0.8 * h for h in tail)])
    assert rates(10, schedule)[-1] == 0.2


@pytest.mark.parametrize("decay", ["linear", "cosine", "wsd"])
def test_a_warmup_over_most_of_the_budget_reaches_the_peak_and_then_the_floor(decay):
    schedule = ScheduleConfig(decay=decay, warmup_fraction=0.6, decay_fraction=0.4, floor_fraction=0.1)
    got = rates(10, schedule)
    assert got[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert got[6:] == sorted(got[6:], reverse=True)
    assert got[-1] == 0.1


def test_absolute_floor_takes_the_place_of_the_fraction():
    schedule = ScheduleConfig(floor_lr=2e-5, floor_fraction=0.5)
    assert floor_share(schedule, peak_lr=1e-3) == pytest.approx(0.02)
    assert rates(7, schedule, peak_lr=1e-3)[-1] * 1e-3 == pytest.approx(2e-5)
    assert floor_share(ScheduleConfig(floor_fraction=0.5), peak_lr=1e-3) == 0.5
