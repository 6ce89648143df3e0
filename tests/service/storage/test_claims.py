import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.storage.claims import UNSEEN_END, LeaseLost
from service.storage.slots import SEEN_FAILURE

ROOT = Path(__file__).resolve().parents[3]

HAMMER = """
import os, sys
import sqlalchemy as sa
from service.storage.claims import Claims
from service.storage.slots import Slots
from service.storage.schema import StudyKey
engine = sa.create_engine(sys.argv[1], connect_args={"timeout": 60})
claims = Claims(Slots(engine, StudyKey(1, "g")), owner=str(os.getpid()), lease_seconds=60)
sys.stdin.readline()
while (slot := claims.claim()) is not None:
    claims.set_trial(slot, slot.index, attempts=0)
    claims.close(slot)
    print(slot.index)
"""


def counts(claims):
    return {state: count for state, count in claims.slots.counts().items() if count}


@pytest.mark.slow
def test_eight_processes_close_every_slot_once(engine, claims_of):
    claims = claims_of("creator")
    claims.slots.total(40)
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
    assert counts(claims) == {"closed": 40}


def test_a_leased_slot_is_nobody_elses(claims_of):
    first, second = claims_of("first"), claims_of("second")
    first.slots.total(1)
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


def test_an_expired_lease_is_taken_over_and_its_former_owner_is_told(claims_of):
    dead, heir = claims_of("dead", lease_seconds=-1), claims_of("heir")
    dead.slots.total(1)
    slot = dead.claim()
    dead.set_trial(slot, 3, attempts=0)
    taken = heir.claim()
    assert (taken.index, taken.trial_number, taken.attempts) == (0, 3, UNSEEN_END)
    for act in (dead.renew, dead.close, lambda s: dead.hand_back(s, attempts=0)):
        with pytest.raises(LeaseLost):
            act(slot)
    heir.close(taken)


def test_three_workers_that_vanish_count_as_one_failure(claims_of):
    claims_of("a").slots.total(1)
    for life in range(3):
        vanished = claims_of(f"vanished{life}", lease_seconds=-1)
        vanished.set_trial(vanished.claim(), 0, attempts=life)
    assert claims_of("heir").claim().attempts == SEEN_FAILURE


def test_an_answer_that_was_lost_does_no_harm(claims_of):
    """The database made the change and went away before it could say so; the call is made again."""
    claims = claims_of("a")
    claims.slots.total(2)
    leased_unknowingly = claims.claim()
    slot = claims.claim()
    assert (slot.index, slot.attempts) == (leased_unknowingly.index, 0)
    claims.close(slot)
    claims.close(slot)
    assert counts(claims) == {"open": 1, "closed": 1}
    with pytest.raises(LeaseLost):
        claims_of("b").close(slot)


def test_a_handed_back_slot_is_leased_before_new_ones(claims_of):
    claims, other = claims_of("a"), claims_of("b")
    claims.slots.total(3)
    claims.close(claims.claim())
    second = claims.claim()
    third = other.claim()
    other.set_trial(third, 9, attempts=0)
    other.hand_back(third, attempts=2)
    claims.hand_back(second, attempts=0)
    claimed = claims.claim()
    assert (claimed.index, claimed.trial_number, claimed.attempts) == (2, 9, 2)
