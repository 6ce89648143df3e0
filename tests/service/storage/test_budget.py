import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from service.storage.budget import BUDGET, Budget, how_it_stopped, nothing_granted, what_came
from service.storage.optuna_private import METADATA
from service.storage.schema import SLOTS


@pytest.fixture
def engine(engine_of_each):
    return engine_of_each


@pytest.fixture
def pauses_of(pauses_with):
    return pauses_with(nothing_granted("tokens"))


def test_nothing_is_granted_at_first_and_a_total_never_takes_any_back(pauses_of):
    budget = pauses_of("a").budget
    assert budget.read().left == 0
    budget.total(900)
    budget.total(300)
    assert (budget.read().granted, budget.read().left) == (900, 900)


def test_more_is_beyond_what_is_spent_when_nobody_works_and_beyond_what_is_granted_otherwise(pauses_of):
    pauses = pauses_of("a")
    budget = pauses.budget
    budget.more(900)
    slot = pauses.begin(budget.read(), tokens=300, point=None)
    budget.more(100)
    assert (budget.read().granted, budget.read().left) == (1000, 700)
    pauses.claims.pause(slot)
    budget.more(200)
    assert (budget.read().granted, budget.read().left) == (500, 200)


def test_of_two_claims_by_one_reading_the_second_changes_nothing(pauses_of):
    one, other = pauses_of("one"), pauses_of("other")
    one.budget.total(900)
    seen = one.budget.read()
    assert one.begin(seen, tokens=300, point=None).index == 0
    assert other.begin(seen, tokens=300, point=None) is None
    assert (len(one.budget.read().slots), one.budget.read().left) == (1, 600)
    assert other.begin(other.budget.read(), tokens=300, point=None).index == 1


def test_a_claim_whose_slot_has_changed_is_not_counted(pauses_of, engine):
    pauses = pauses_of("a")
    pauses.budget.total(900)
    slot = pauses.begin(pauses.budget.read(), tokens=300, point=None)
    pauses.claims.pause(slot)
    seen = pauses.budget.read()
    with engine.begin() as connection:
        connection.execute(SLOTS.update().values(state="closed"))
    assert pauses.promote(seen, 0, tokens=600) is None
    now = pauses.budget.read()
    assert (now.claims, now.left, now.slots[0].tokens) == (seen.claims, 600, 300)


def test_a_study_that_is_gone_has_no_budget(pauses_of, engine):
    budget = pauses_of("a").budget
    with engine.begin() as connection:
        for table in reversed(METADATA.sorted_tables):
            connection.execute(sa.delete(table))
    assert budget.read() is None
    budget.total(900)
    assert isinstance(budget, Budget)
    assert budget.read() is None


def side_by_side(work, workers):
    """Each worker in a thread of its own; what one raises is raised."""
    with ThreadPoolExecutor(len(workers)) as threads:
        list(threads.map(work, workers))


def test_many_workers_claim_exactly_what_is_granted(pauses_of):
    workers = [pauses_of(f"w{number}") for number in range(4)]
    workers[0].budget.total(40 * 7 + 3)

    def work(pauses):
        while (seen := pauses.budget.read()).left >= 7:
            slot = pauses.begin(seen, tokens=7, point={"x": len(seen.slots)})
            if slot is not None:
                pauses.claims.pause(slot)

    side_by_side(work, workers)
    seen = workers[0].budget.read()
    assert ([row.slot for row in seen.slots], seen.left) == (list(range(40)), 3)
    assert [json.loads(row.point)["x"] for row in seen.slots] == list(range(40))


def test_of_a_budget_that_has_stopped_nothing_is_left_until_more_is_asked_for(pauses_of):
    pauses = pauses_of("a")
    budget = pauses.budget
    budget.total(900)
    slot = pauses.begin(budget.read(), tokens=300, point=None)
    assert budget.stop(budget.read(), "nothing is gained")
    seen = budget.read()
    assert (seen.stopped, seen.left, seen.spent, seen.granted) == ("nothing is gained", 0, 300, 900)
    budget.total(900)  # no more than before
    assert budget.read().stopped == "nothing is gained"
    budget.more(200)
    seen = budget.read()
    assert (seen.stopped, seen.left, seen.granted, seen.overruled) == (None, 200, 500, "nothing is gained")
    assert pauses.extend(seen, slot, tokens=400)
    assert budget.read().overruled  # and a claim keeps that
    budget.stop(budget.read(), "again")
    budget.total(600)
    assert (budget.read().stopped, budget.read().left) == (None, 200)


def test_people_are_told_that_a_study_has_stopped_and_that_it_went_on(pauses_of):
    budget = pauses_of("a").budget

    def told():
        return how_it_stopped({BUDGET: json.loads(budget.read().text)})

    budget.total(900)
    assert told() is None
    assert how_it_stopped({}) is None
    budget.stop(budget.read(), "nothing is gained")
    assert told().startswith(
        "the search has stopped by itself: nothing is gained. Asked for more, it goes on"
    )
    budget.more(100)
    assert (
        told() == "the search went on, as it was asked to, after it had stopped by itself: nothing is gained"
    )


def test_of_two_that_decide_by_one_reading_only_one_stops_or_claims(pauses_of):
    one, other = pauses_of("one"), pauses_of("other")
    one.budget.total(900)
    seen = one.budget.read()
    assert other.begin(seen, tokens=300, point=None)
    assert not one.budget.stop(seen, "nothing is gained")
    seen = one.budget.read()
    assert one.budget.stop(seen, "nothing is gained")
    assert other.begin(seen, tokens=300, point=None) is None


@pytest.mark.parametrize(("unit", "price"), [("flops", 2**54 + 1), ("seconds", 0.25)])
def test_of_another_unit_each_slot_has_its_price(pauses_with, unit, price):
    # a price that a double cannot hold is rounded once, where it is stored
    pauses = pauses_with(nothing_granted(unit))("a")
    budget = pauses.budget
    budget.total(1000 * price)
    slot = pauses.begin(budget.read(), tokens=300, point=None, price=price)
    seen = budget.read()
    assert (seen.unit, seen.granted) == (unit, 1000 * price)
    assert seen.spent == 300 * seen.slots[0].price == seen.granted - seen.left
    assert pauses.extend(seen, slot, tokens=500)
    assert budget.read().spent == 500 * seen.slots[0].price
    budget.stop(budget.read(), "why")
    assert (budget.read().unit, budget.read().left) == (unit, 0)
    budget.more(7)
    assert budget.read().left == 7


def test_a_price_is_settled_once_and_gives_back_what_was_claimed_too_much(pauses_with):
    make = pauses_with(nothing_granted("flops"))
    one, other = make("one"), make("other")
    one.budget.total(3000)
    slot = one.begin(one.budget.read(), tokens=300, point=None, price=10)
    seen = one.budget.read()
    assert seen.left == 0
    assert not other.settle(seen, slot, tokens=300, price=4)  # it is not the other one's
    assert one.settle(seen, slot, tokens=300, price=4)
    assert not one.settle(seen, slot, tokens=300, price=4)  # by an old reading
    assert (one.budget.read().left, one.budget.read().likely_price) == (1800, 4)
    assert other.begin(seen, tokens=300, point=None, price=4) is None
    assert other.begin(other.budget.read(), tokens=300, point=None, price=6)
    assert (one.budget.read().left, one.budget.read().likely_price) == (0, 6)


def test_what_was_measured_takes_the_place_of_what_was_guessed(pauses_with):
    pauses = pauses_with(nothing_granted("seconds"))("a")
    pauses.budget.total(100)
    slot = pauses.begin(pauses.budget.read(), tokens=300, point=None)
    seen = pauses.budget.read()
    assert (seen.spent, seen.left, seen.likely_price) == (0, 100, None)  # nobody knows yet
    pauses.measured(slot, price=0.2)
    seen = pauses.budget.read()
    assert (seen.spent, seen.left, seen.likely_price) == (60, 40, 0.2)
    pauses.measured(slot, price=0.5)
    assert (pauses.budget.read().spent, pauses.budget.read().left) == (150, 0)  # it took longer than was left
    assert pauses.budget.read().trials_left(900, rung=300, price=0.5) == 1  # it is still at work
    pauses.claims.close(slot)
    pauses.measured(slot, price=0.1)
    assert pauses.budget.read().spent == 150
    assert pauses.budget.read().trials_left(900, rung=300, price=0.5) == 0


def test_many_workers_spend_exactly_what_is_granted_in_operations(pauses_with):
    make = pauses_with(nothing_granted("flops"))
    workers = [make(f"w{number}") for number in range(4)]
    prices = [3 * 10**15 + 1, 5 * 10**15, 7 * 10**15 + 3]
    workers[0].budget.total(40 * 10**17)

    def work(pauses):
        while (seen := pauses.budget.read()).left >= seen.cost(10, max(prices)):
            slot = pauses.begin(seen, tokens=10, point={}, price=max(prices))
            if slot is None:
                continue
            price = prices[slot.index % 3]
            while not pauses.settle(pauses.budget.read(), slot, tokens=10, price=price):
                pass
            pauses.claims.pause(slot)

    side_by_side(work, workers)
    seen = workers[0].budget.read()
    assert seen.spent == sum(10 * int(float(prices[row.slot % 3])) for row in seen.slots)
    assert 0 <= seen.left < 10 * max(prices)
    assert len(seen.slots) > 70


def test_what_was_forecast_at_a_stop_is_held_against_what_came(pauses_of):
    budget = pauses_of("a").budget

    def told(*losses):
        return what_came({BUDGET: json.loads(budget.read().text)}, losses)

    budget.total(900)
    assert told(1.0) is None
    forecast = {"trials": 10, "ahead": 0.002, "low": 0.0, "high": 0.004, "whole": 2, "best": 1.5}
    budget.stop(budget.read(), "nothing is gained", forecast)
    assert told(1.6, 1.5) is None  # nothing has come yet
    budget.more(100)
    assert told(1.6, 1.5, 1.4988, 1.7) == (
        "forecast of 10 more trials: a best loss lower by 0.0020, in eight cases of ten by 0.0000 to 0.0040; "
        "2 more whole ones have lowered it by 0.0012"
    )
    assert what_came({}, [1.0]) is None


def test_what_is_spent_and_left_is_said_in_its_unit_and_after_a_stop_that_nothing_is_claimed(pauses_of):
    pauses = pauses_of("a")
    pauses.budget.total(900_000)
    pauses.begin(pauses.budget.read(), tokens=300_000, point=None)
    assert (
        pauses.budget.read().shown("tokens") == "300,000 tokens spent of 900,000 tokens; 600,000 tokens left"
    )
    pauses.budget.stop(pauses.budget.read(), "nothing is gained")
    assert pauses.budget.read().shown("epochs") == (
        "300,000 epochs spent of 900,000 epochs; the search has stopped by itself before the rest"
    )


def test_a_rung_that_took_longer_than_what_was_left_is_spent_and_nothing_is_left(pauses_with):
    pauses = pauses_with(nothing_granted("seconds"))("a")
    pauses.budget.total(3600)
    slot = pauses.begin(pauses.budget.read(), tokens=1000, point=None)
    pauses.settle(pauses.budget.read(), slot, tokens=1000, price=3.66)
    assert pauses.budget.read().shown("tokens") == (
        "1 h 01 min of training spent of 1 h 00 min of training; 0 s of training left"
    )
