from types import SimpleNamespace

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from model.errors import CheckpointError, UserError
from service.storage.artifact_stores import FolderStore
from service.trials.saved_states import FREE_SECONDS, SHARE, STATES, SavedStates, drop_states
from tests.service.trials.test_worker import states

LOG = structlog.get_logger()


class Trial:
    number = 7

    def __init__(self):
        self.user_attrs = {}

    def set_user_attr(self, key, value):
        self.user_attrs[key] = value


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class SlowToSave:
    """A run whose state takes so many seconds to save, or to find the disk full."""

    def __init__(self, clock, seconds, *, full=False):
        self.clock, self.seconds, self.full = clock, seconds, full

    def save(self, path):
        self.clock.now += self.seconds
        if self.full:
            raise OSError("no space left")
        path.write_bytes(b"state")


seconds = st.floats(0.0, 100.0)


@given(st.lists(st.tuples(seconds, seconds, st.booleans()), max_size=30))
def test_saving_takes_no_more_than_its_share_and_one_save(tmp_path_factory, rungs):
    clock, spent, largest = Clock(), 0.0, 0.0
    kept = SavedStates(FolderStore(tmp_path_factory.mktemp("store")), Trial(), LOG, clock=clock)
    for training, saving, full in rungs:
        clock.now += training
        if kept.due:
            kept.save(SlowToSave(clock, saving, full=full))
            spent, largest = spent + saving, max(largest, saving)
        assert spent <= FREE_SECONDS + SHARE * clock.now + largest


@pytest.mark.parametrize(
    ("rungs", "training", "saving", "saved"),
    [
        (40, 3.0, 0.1, 40),  # a thirtieth of the time, all rungs
        (40, 3.0, 1.9, 5),  # the first two, and then one in 38 seconds
        (100, 0.01, 0.04, 54),  # the two seconds pay for fifty
    ],
)
def test_what_is_cheap_is_saved_at_every_rung_and_what_is_dear_now_and_then(
    tmp_path, rungs, training, saving, saved
):
    clock, times = Clock(), 0
    kept = SavedStates(FolderStore(tmp_path), Trial(), LOG, clock=clock)
    for _ in range(rungs):
        clock.now += training
        if kept.due:
            times += kept.save(SlowToSave(clock, saving))
    assert times == pytest.approx(saved, abs=1)


def test_the_newest_state_that_can_be_used_is_taken_and_all_are_dropped(tmp_path):
    store, clock, trial = FolderStore(tmp_path), Clock(), Trial()
    trial.user_attrs[STATES] = ["state-gone-5", "state-older-6"]
    older = tmp_path / "state-older-6"
    older.write_bytes(b"older")
    kept = SavedStates(store, trial, LOG)
    assert kept.save(SlowToSave(clock, 0.0))
    assert len(trial.user_attrs[STATES]) == 3
    assert kept.save(SlowToSave(clock, 0.0))  # in the place of its own
    assert len(trial.user_attrs[STATES]) == 3

    def resume(path, config):
        if path.read_bytes() == b"state":
            raise CheckpointError("of another run")
        return SimpleNamespace(tokens=config, evaluations=[])

    assert kept.newest(SimpleNamespace(resume=resume), 12).tokens == 12
    older.unlink()
    assert kept.newest(SimpleNamespace(resume=resume), 12) is None
    drop_states(store, trial)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_dies_behind_an_unsaved_rung_goes_on_from_the_state_before_it(
    tiny, at_step, monkeypatch, undisturbed_loss
):
    tiny.create(1)
    worker = tiny.worker()
    due = iter([True, False, False])
    monkeypatch.setattr(SavedStates, "due", property(lambda _: next(due)))

    def die():
        monkeypatch.setattr(SavedStates, "save", lambda *_: False)  # as if it had no time for it
        worker.stop()

    at_step({60: die})  # rungs after 24, 47 and 70 steps
    with pytest.raises(UserError):
        worker.work()
    monkeypatch.undo()
    steps = at_step({})
    tiny.worker().work()
    first, second = tiny.trials()
    assert states(tiny) == [TrialState.FAIL, TrialState.COMPLETE]
    assert steps[0] == 25
    assert len(first.intermediate_values) == 2
    assert list(second.intermediate_values.values())[:2] == list(first.intermediate_values.values())
    assert second.value == undisturbed_loss
