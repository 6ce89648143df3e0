import json

import pytest

from service.storage.claims import LeaseLost


@pytest.fixture
def engine(engine_of_each):
    return engine_of_each


@pytest.fixture
def pauses_of(pauses_with):
    return pauses_with({"tokens": 900, "claims": 0})


def begun(pauses, *, trial=0):
    slot = pauses.begin(pauses.budget.read(), tokens=300, point=None)
    return pauses.claims.set_trial(slot, trial, attempts=0)


def test_a_paused_trial_has_no_holder_and_goes_on_with_whoever_promotes_it(pauses_of):
    one, other = pauses_of("one"), pauses_of("other")
    slot = begun(one)
    one.claims.pause(slot)
    one.claims.pause(slot)  # as when the answer was lost
    assert one.claims.claim() is None
    assert other.claims.slots.paused_trials() == {0}
    assert other.claims.slots.trials_in_progress() == {0}  # no stray
    promoted = other.promote(other.budget.read(), 0, tokens=600)
    assert (promoted.trial_number, promoted.tokens, promoted.promoted) == (0, 600, True)
    assert other.budget.read().left == 300
    with pytest.raises(LeaseLost):
        one.claims.renew(slot)
    other.claims.close(promoted)


def test_of_two_that_promote_one_trial_one_has_it(pauses_of):
    one, other = pauses_of("one"), pauses_of("other")
    one.claims.pause(begun(one))
    seen = one.budget.read()
    assert one.promote(seen, 0, tokens=600) is not None
    assert other.promote(seen, 0, tokens=600) is None
    assert other.promote(other.budget.read(), 0, tokens=600) is None
    assert one.budget.read().left == 300


def test_a_held_slot_is_extended_by_its_holder_alone(pauses_of):
    one, other = pauses_of("one"), pauses_of("other")
    slot = begun(one)
    assert other.extend(other.budget.read(), slot, tokens=600) is None
    assert one.extend(one.budget.read(), slot, tokens=600).tokens == 600
    assert one.budget.read().left == 300


def test_the_tokens_of_a_dead_claim_stay_with_its_slot_for_the_next_worker(pauses_of):
    dead, heir = pauses_of("dead", lease_seconds=-1), pauses_of("heir")
    begun(dead)
    slot = heir.claims.claim()
    assert (slot.trial_number, slot.tokens, slot.promoted) == (0, 300, False)
    assert heir.budget.read().left == 600


def test_a_configuration_that_is_given_up_gives_its_tokens_back(pauses_of):
    pauses = pauses_of("a")
    slot = begun(pauses)
    slot = pauses.extend(pauses.budget.read(), slot, tokens=600)
    slot = pauses.claims.restart(slot, tokens=300)
    assert (slot.trial_number, slot.tokens, slot.point) == (None, 300, None)
    assert pauses.budget.read().left == 600


def test_a_point_stays_with_its_slot_until_a_trial_has_it(pauses_of):
    dead, heir = pauses_of("dead", lease_seconds=-1), pauses_of("heir")
    dead.begin(dead.budget.read(), tokens=300, point={"optimizer.lr": 1e-3})
    assert json.loads(heir.claims.claim().point) == {"optimizer.lr": 1e-3}


def test_a_trial_is_taken_once_to_be_ended(pauses_of):
    one, other = pauses_of("one"), pauses_of("other")
    one.claims.pause(begun(one))
    (row,) = one.budget.read().waiting()
    assert one.take(row).trial_number == 0
    assert other.take(row) is None
    assert one.budget.read().left == 600
