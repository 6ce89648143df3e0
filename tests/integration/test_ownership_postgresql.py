"""Studies, their slots and their generations in a real PostgreSQL, whose types and foreign keys are stricter."""

import contextlib

import optuna
import pytest
import sqlalchemy as sa

from service.storage.claims import Claims, LeaseLost
from service.storage.database import open_storage
from service.storage.ownership import key_of
from service.storage.slots import Slots
from service.storage.studies import StudyError, load_study

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def loaded(tiny):
    storage = open_storage(tiny.settings)
    try:
        yield storage, load_study(storage, "tiny", tiny.settings)[0]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_slots_die_with_their_study_and_optunas_studies_stay(tiny_on_postgresql):
    tiny = tiny_on_postgresql
    tiny.create(3)
    with loaded(tiny) as (storage, study):
        claims = Claims(Slots(storage.engine, key_of(study)), owner="a", lease_seconds=60)
        slot = claims.claim()
        optuna.delete_study(study_name="tiny", storage=storage)
        assert not any(claims.slots.counts().values())
        with pytest.raises(LeaseLost):
            claims.renew(slot)
        plain = optuna.create_study(study_name="tiny", storage=storage)
        plain.enqueue_trial({"x": 1})
        with pytest.raises(StudyError, match=r"^study 'tiny' was made by Optuna itself, not by hptune"):
            tiny.create(1)
        assert len(plain.trials) == 1


def test_a_database_in_the_old_layout_opens_with_all_it_holds(tiny_on_postgresql):
    tiny = tiny_on_postgresql
    tiny.create(2)
    with loaded(tiny) as (storage, _), storage.engine.begin() as connection:
        for table in ("hptune_slots", "hptune_workers"):
            connection.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN generation"))
        connection.execute(sa.text("DELETE FROM study_user_attributes WHERE key = 'generation'"))
    assert tiny.slots()["open"] == 2
    with loaded(tiny) as (_, study):
        study.enqueue_trial({"optimizer.lr": 0.5})
    tiny.worker().work()
    assert tiny.slots()["closed"] == 2
    assert tiny.trials()[0].user_attrs["ended"].startswith("refused: optimizer.lr: given 0.5, allowed: ")
