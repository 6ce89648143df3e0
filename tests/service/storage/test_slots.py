import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.storage.schema import StudyKey
from service.storage.slots import SEEN_FAILURE, UNSEEN_END, LeaseLost, Slots
from tests.conftest import make_two_studies

ROOT = Path(__file__).resolve().parents[3]

HAMMER = """
import os, sys
import sqlalchemy as sa
from service.storage.slots import Slots
from service.storage.schema import StudyKey
engine = sa.create_engine(sys.argv[1], connect_args={"timeout": 60})
slots = Slots(engine, StudyKey(1, "g"), owner=str(os.getpid()), lease_seconds=60)
sys.stdin.readline()
while (slot := slots.claim()) is not None:
    slots.set_trial(slot, slot.index, attempts=0)
    slots.close(slot)
    print(slot.index)
"""


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'slots.db'}")
    make_two_studies(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def slots_of(engine):
    def make(owner: str, *, lease_seconds: float = 60, study_id: int = 1) -> Slots:
        return Slots(engine, StudyKey(study_id, "gh"[study_id - 1]), owner=owner, lease_seconds=lease_seconds)

    return make


def counts(slots):
    return {state: count for state, count in slots.counts().items() if count}


def test_eight_processes_close_every_slot_once(engine, slots_of):
    slots = slots_of("creator")
    slots.total(40)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(engine.url)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:  # all at once, as nearly as can be had
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert sorted(int(index) for output in outputs for index in output.split()) == list(range(40))
    assert counts(slots) == {"closed": 40}


def test_a_leased_slot_is_nobody_elses(slots_of):
    first, second = slots_of("first"), slots_of("second")
    first.total(1)
    slot = first.claim()
    assert slot is not None
    assert second.claim() is None
    for act in (
        second.renew,
        second.close,
        lambda s: second.hand_back(s, attempts=0),
        lambda s: second.set_trial(s, 7, attempts=0),
    ):
        with pytest.raises(LeaseLost):
            act(slot)
    first.renew(slot)
    first.close(slot)
    assert counts(first) == {"closed": 1}


def test_an_expired_lease_is_taken_over_and_its_former_owner_is_told(slots_of):
    dead, heir = slots_of("dead", lease_seconds=-1), slots_of("heir")
    dead.total(1)
    slot = dead.claim()
    dead.set_trial(slot, 3, attempts=0)
    taken = heir.claim()
    assert (taken.index, taken.trial_number, taken.attempts) == (0, 3, UNSEEN_END)
    for act in (dead.renew, dead.close, lambda s: dead.hand_back(s, attempts=0)):
        with pytest.raises(LeaseLost):
            act(slot)
    heir.close(taken)


def test_three_workers_that_vanish_count_as_one_failure(slots_of):
    slots_of("a").total(1)
    for life in range(3):
        vanished = slots_of(f"vanished{life}", lease_seconds=-1)
        vanished.set_trial(vanished.claim(), 0, attempts=life)
    assert slots_of("heir").claim().attempts == SEEN_FAILURE


def test_an_answer_that_was_lost_does_no_harm(slots_of):
    """The database made the change and went away before it could say so; the call is made again."""
    slots = slots_of("a")
    slots.total(2)
    leased_unknowingly = slots.claim()
    slot = slots.claim()
    assert (slot.index, slot.attempts) == (leased_unknowingly.index, 0)
    slots.close(slot)
    slots.close(slot)
    assert counts(slots) == {"open": 1, "closed": 1}
    with pytest.raises(LeaseLost):
        slots_of("b").close(slot)


def test_a_handed_back_slot_is_leased_before_new_ones(slots_of):
    slots, other = slots_of("a"), slots_of("b")
    slots.total(3)
    slots.close(slots.claim())
    second = slots.claim()
    third = other.claim()
    other.set_trial(third, 9, attempts=0)
    other.hand_back(third, attempts=2)
    slots.hand_back(second, attempts=0)
    claimed = slots.claim()
    assert (claimed.index, claimed.trial_number, claimed.attempts) == (2, 9, 2)


def test_release_frees_what_a_dead_process_held_and_nothing_else(slots_of):
    dead, alive = slots_of("dead"), slots_of("alive")
    dead.total(2)
    dead.set_trial(dead.claim(), 0, attempts=0)
    alive.set_trial(alive.claim(), 1, attempts=0)
    slots_of("supervisor").release("dead", lost="its worker was killed (signal 9)")
    assert counts(alive) == {"open": 1, "leased": 1}
    heir = slots_of("heir").claim()
    assert (heir.trial_number, heir.attempts, heir.lost) == (
        0,
        SEEN_FAILURE,
        "its worker was killed (signal 9)",
    )


def test_total_counts_closed_slots_and_never_drops_any(slots_of):
    slots = slots_of("a")
    slots.total(3)
    slots.close(slots.claim())
    slots.total(2)
    assert counts(slots) == {"open": 2, "closed": 1}
    slots.total(5)
    assert counts(slots) == {"open": 4, "closed": 1}


def test_more_starts_with_what_was_left_and_drops_what_was_never_started(slots_of):
    slots = slots_of("a")
    slots.more(4)
    slots.close(slots.claim())
    started = slots.claim()
    slots.set_trial(started, 1, attempts=0)
    slots.hand_back(started, attempts=0)
    slots.more(1)
    assert counts(slots) == {"open": 1, "closed": 1}
    assert slots.claim().trial_number == 1


def test_more_holds_started_trials_beyond_the_number_for_a_later_call(slots_of):
    workers = [slots_of(owner) for owner in "abc"]
    slots = workers[0]
    slots.more(2)
    both = [worker.claim() for worker in workers[:2]]
    for number, (worker, slot) in enumerate(zip(workers, both, strict=False)):
        worker.set_trial(slot, number, attempts=0)
        worker.hand_back(slot, attempts=0)
    slots.more(1)
    assert counts(slots) == {"open": 1, "held": 1}
    slots.more(3)
    assert counts(slots) == {"open": 3}
    assert [worker.claim().trial_number for worker in workers] == [0, 1, None]


def test_more_adds_to_the_slots_of_workers_that_are_alive(slots_of):
    slots, second = slots_of("a"), slots_of("b")
    slots.more(3)
    slots.claim()
    second.more(2)
    assert counts(slots) == {"open": 4, "leased": 1}


@pytest.mark.parametrize("workers_are_alive", [True, False])
def test_more_never_goes_beyond_the_configurations_of_a_design(slots_of, workers_are_alive):
    slots, second = slots_of("a", lease_seconds=60 if workers_are_alive else -1), slots_of("b")
    slots.more(4, limit=5)
    slots.close(slots.claim())
    slots.claim()
    second.more(4, limit=5)
    assert sum(counts(slots).values()) == 5
    assert counts(slots)["closed"] == 1


def test_a_total_brings_back_what_an_earlier_call_left_for_later(slots_of):
    slots, *others = (slots_of(owner) for owner in "abc")
    slots.more(2)
    for other, slot in [(other, other.claim()) for other in others]:
        other.set_trial(slot, slot.index, attempts=0)
        other.hand_back(slot, attempts=0)
    slots.more(1)
    assert counts(slots) == {"open": 1, "held": 1}
    slots.total(3)
    assert counts(slots) == {"open": 3}


def test_more_takes_over_from_workers_that_are_dead(slots_of):
    dead, later = slots_of("dead", lease_seconds=-1), slots_of("later")
    dead.more(3)
    dead.set_trial(dead.claim(), 0, attempts=0)
    later.more(2)
    assert counts(later) == {"open": 2}
    assert [slots_of(owner).claim().trial_number for owner in "ab"] == [0, None]


def test_a_dropped_slot_number_is_given_again(slots_of):
    """The slot's number says which configuration of a design it runs; none may be left out."""
    slots, *others = (slots_of(owner) for owner in "abc")
    slots.more(3)
    never_started = slots.claim()
    for other, slot in [(other, other.claim()) for other in others]:
        other.set_trial(slot, slot.index, attempts=0)
        other.hand_back(slot, attempts=0)
    slots.hand_back(never_started, attempts=0)
    slots.more(2)
    for _ in range(2):
        slots.close(slots.claim())
    slots.more(1)
    assert slots.claim().index == never_started.index == 0


def test_studies_do_not_see_each_others_slots(slots_of):
    slots_of("a", study_id=1).total(2)
    other = slots_of("a", study_id=2)
    assert other.claim() is None
    other.total(1)
    assert other.claim().index == 0
    assert counts(slots_of("a")) == {"open": 2}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.booleans()), max_size=4))
def test_each_call_of_more_finishes_exactly_its_number(calls):
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    make_two_studies(engine)
    slots = Slots(engine, StudyKey(1, "g"), owner="a", lease_seconds=60)
    number = 0
    for trials, finish, interrupt in calls:
        slots.more(trials)
        assert slots.counts()["open"] == trials
        for _ in range(min(finish, trials)):
            slots.close(slots.claim())
        if interrupt and (slot := slots.claim()) is not None:
            slots.set_trial(slot, number, attempts=0)
            slots.hand_back(slot, attempts=0)
            number += 1
    closed = slots.counts()["closed"]
    slots.more(3)
    while (slot := slots.claim()) is not None:
        slots.close(slot)
    assert slots.counts()["closed"] == closed + 3
    engine.dispose()
