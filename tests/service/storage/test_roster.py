import time

import pytest
import sqlalchemy as sa

from service.storage.roster import Roster
from service.storage.schema import WORKERS, StudyKey, missing
from tests.conftest import make_two_studies


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'roster.db'}")
    make_two_studies(engine)
    yield engine
    engine.dispose()


def test_numbers_are_never_given_twice(engine):
    roster = Roster(engine, StudyKey(1, "g"), lease_seconds=60)
    assert [roster.register(owner, device="CPU") for owner in "ab"] == [0, 1]
    roster.leave(1)
    assert roster.register("c", device="CPU") == 2
    assert Roster(engine, StudyKey(2, "h"), lease_seconds=60).register("a", device="CPU") == 0


def test_who_leaves_or_falls_silent_is_not_alive(engine):
    roster = Roster(engine, StudyKey(1, "g"), lease_seconds=60)
    silent = Roster(engine, StudyKey(1, "g"), lease_seconds=-1)
    stays, leaves, dies = (
        roster.register("stays", device="CPU"),
        roster.register("leaves", device="CPU"),
        silent.register("dies", device="NVIDIA H200"),
    )
    roster.leave(leaves)
    assert [worker.owner for worker in roster.alive()] == ["stays"]
    roster.renew(dies)
    assert [(worker.number, worker.device) for worker in roster.alive()] == [
        (stays, "CPU"),
        (dies, "NVIDIA H200"),
    ]


def test_it_is_said_again_after_a_quarter_of_the_time_and_not_before(engine):
    def alive_until(number):
        with engine.connect() as connection:
            rows = sa.select(WORKERS.c.alive_until).where(WORKERS.c.number == number)
            return connection.execute(rows).scalar_one()

    for lease_seconds, is_due in ((3600, False), (0.2, True)):
        roster = Roster(engine, StudyKey(1, "g"), lease_seconds=lease_seconds)
        number = roster.register("works", device="CPU")
        roster.renew(number)
        before = alive_until(number)
        time.sleep(0.1)
        roster.renew_when_due(number)
        assert (alive_until(number) > before) == is_due


def test_a_database_of_another_version_is_told_by_what_it_lacks(engine):
    assert missing(engine) is None
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hptune_slots DROP COLUMN lost")
    assert missing(engine) == "hptune_slots.lost"
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE hptune_slots")
    assert missing(engine) == "hptune_slots"
