import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.storage.claims import Claims
from service.storage.schema import StudyKey
from service.storage.slots import SEEN_FAILURE, Slots
from tests.conftest import make_two_studies


def counts(claims):
    return {state: count for state, count in claims.slots.counts().items() if count}


def test_release_frees_what_a_dead_process_held_and_nothing_else(claims_of):
    dead, alive = claims_of("dead"), claims_of("alive")
    dead.slots.total(2)
    dead.set_trial(dead.claim(), 0, attempts=0)
    alive.set_trial(alive.claim(), 1, attempts=0)
    claims_of("supervisor").slots.release("dead", lost="its worker was killed (signal 9)")
    assert counts(alive) == {"open": 1, "leased": 1}
    heir = claims_of("heir").claim()
    assert (heir.trial_number, heir.attempts, heir.lost) == (
        0,
        SEEN_FAILURE,
        "its worker was killed (signal 9)",
    )


def test_total_counts_closed_slots_and_never_drops_any(claims_of):
    claims = claims_of("a")
    claims.slots.total(3)
    claims.close(claims.claim())
    claims.slots.total(2)
    assert counts(claims) == {"open": 2, "closed": 1}
    claims.slots.total(5)
    assert counts(claims) == {"open": 4, "closed": 1}


def test_more_starts_with_what_was_left_and_drops_what_was_never_started(claims_of):
    claims = claims_of("a")
    claims.slots.more(4)
    claims.close(claims.claim())
    started = claims.claim()
    claims.set_trial(started, 1, attempts=0)
    claims.hand_back(started, attempts=0)
    claims.slots.more(1)
    assert counts(claims) == {"open": 1, "closed": 1}
    assert claims.claim().trial_number == 1


def test_more_holds_started_trials_beyond_the_number_for_a_later_call(claims_of):
    workers = [claims_of(owner) for owner in "abc"]
    claims = workers[0]
    claims.slots.more(2)
    both = [worker.claim() for worker in workers[:2]]
    for number, (worker, slot) in enumerate(zip(workers, both, strict=False)):
        worker.set_trial(slot, number, attempts=0)
        worker.hand_back(slot, attempts=0)
    claims.slots.more(1)
    assert counts(claims) == {"open": 1, "held": 1}
    claims.slots.more(3)
    assert counts(claims) == {"open": 3}
    assert [worker.claim().trial_number for worker in workers] == [0, 1, None]


def test_more_adds_to_the_claims_of_workers_that_are_alive(claims_of):
    claims, second = claims_of("a"), claims_of("b")
    claims.slots.more(3)
    claims.claim()
    second.slots.more(2)
    assert counts(claims) == {"open": 4, "leased": 1}


@pytest.mark.parametrize("workers_are_alive", [True, False])
def test_more_never_goes_beyond_the_configurations_of_a_design(claims_of, workers_are_alive):
    claims, second = claims_of("a", lease_seconds=60 if workers_are_alive else -1), claims_of("b")
    claims.slots.more(4, limit=5)
    claims.close(claims.claim())
    claims.claim()
    second.slots.more(4, limit=5)
    assert sum(counts(claims).values()) == 5
    assert counts(claims)["closed"] == 1


def test_a_total_brings_back_what_an_earlier_call_left_for_later(claims_of):
    claims, *others = (claims_of(owner) for owner in "abc")
    claims.slots.more(2)
    for other, slot in [(other, other.claim()) for other in others]:
        other.set_trial(slot, slot.index, attempts=0)
        other.hand_back(slot, attempts=0)
    claims.slots.more(1)
    assert counts(claims) == {"open": 1, "held": 1}
    claims.slots.total(3)
    assert counts(claims) == {"open": 3}


def test_more_takes_over_from_workers_that_are_dead(claims_of):
    dead, later = claims_of("dead", lease_seconds=-1), claims_of("later")
    dead.slots.more(3)
    dead.set_trial(dead.claim(), 0, attempts=0)
    later.slots.more(2)
    assert counts(later) == {"open": 2}
    assert [claims_of(owner).claim().trial_number for owner in "ab"] == [0, None]


def test_a_dropped_slot_number_is_given_again(claims_of):
    """The slot's number says which configuration of a design it runs; none may be left out."""
    claims, *others = (claims_of(owner) for owner in "abc")
    claims.slots.more(3)
    never_started = claims.claim()
    for other, slot in [(other, other.claim()) for other in others]:
        other.set_trial(slot, slot.index, attempts=0)
        other.hand_back(slot, attempts=0)
    claims.hand_back(never_started, attempts=0)
    claims.slots.more(2)
    for _ in range(2):
        claims.close(claims.claim())
    claims.slots.more(1)
    assert claims.claim().index == never_started.index == 0


def test_studies_do_not_see_each_others_slots(claims_of):
    claims_of("a", study_id=1).slots.total(2)
    other = claims_of("a", study_id=2)
    assert other.claim() is None
    other.slots.total(1)
    assert other.claim().index == 0
    assert counts(claims_of("a")) == {"open": 2}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.booleans()), max_size=4))
def test_each_call_of_more_finishes_exactly_its_number(calls):
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    make_two_studies(engine)
    claims = Claims(Slots(engine, StudyKey(1, "g")), owner="a", lease_seconds=60)
    number = 0
    for trials, finish, interrupt in calls:
        claims.slots.more(trials)
        assert claims.slots.counts()["open"] == trials
        for _ in range(min(finish, trials)):
            claims.close(claims.claim())
        if interrupt and (slot := claims.claim()) is not None:
            claims.set_trial(slot, number, attempts=0)
            claims.hand_back(slot, attempts=0)
            number += 1
    closed = claims.slots.counts()["closed"]
    claims.slots.more(3)
    while (slot := claims.claim()) is not None:
        claims.close(slot)
    assert claims.slots.counts()["closed"] == closed + 3
    engine.dispose()
