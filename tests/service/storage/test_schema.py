import itertools
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from service.storage import schema
from service.storage.schema import SLOTS, WORKERS, StudyKey, create_tables, database_time, missing, upgrade
from tests.conftest import make_two_studies


@pytest.fixture
def engine(tmp_path):
    """Studies 1 and 2 of generations g and h, and in each table a row of every study and generation there could be."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    make_two_studies(engine)
    rows = list(itertools.product((1, 2, 3), ("g", "h", None)))
    with engine.begin() as connection:
        for number, (study, generation) in enumerate(rows):
            key = {"study_id": study, "generation": generation}
            connection.execute(SLOTS.insert().values(slot=number, **key))
            connection.execute(
                WORKERS.insert().values(number=number, owner="o", device="d", alive_until=0.0, **key)
            )
    yield engine
    engine.dispose()


def selected(engine, table, condition):
    with engine.connect() as connection:
        rows = connection.execute(sa.select(table.c.study_id, table.c.generation).where(condition))
        return sorted(map(tuple, rows), key=str)


@pytest.mark.parametrize("table", [SLOTS, WORKERS])
def test_a_study_has_the_rows_of_its_id_and_generation_while_it_is_there(engine, table):
    assert selected(engine, table, StudyKey(1, "g").rows(table)) == [(1, "g")]
    assert selected(engine, table, StudyKey(2, "h").rows(table)) == [(2, "h")]
    # id 1 is another study's by now, and id 3 nobody's
    assert selected(engine, table, StudyKey(1, "h").rows(table)) == []
    assert selected(engine, table, StudyKey(3, "g").rows(table)) == []
    assert selected(engine, table, StudyKey(3, None).rows(table)) == []
    assert selected(engine, table, StudyKey(1, None).rows(table)) == [(1, None)]


@pytest.mark.parametrize("table", [SLOTS, WORKERS])
def test_what_remains_under_an_id_is_of_other_generations_and_is_nobodys_else(engine, table):
    assert selected(engine, table, StudyKey(1, "g").remains(table)) == [(1, "h"), (1, None)]
    assert selected(engine, table, StudyKey(1, "h").remains(table)) == []


def test_tables_are_made_once_and_what_is_missing_is_named(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    assert missing(engine) == "hptune_slots"
    create_tables(engine)
    create_tables(engine)
    assert missing(engine) is None
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hptune_workers DROP COLUMN device")
    assert missing(engine) == "hptune_workers.device"
    engine.dispose()


def test_an_older_table_gets_the_columns_that_it_lacks_and_keeps_its_rows(engine):
    with engine.begin() as connection:
        for column in ("generation", "tokens", "point", "price"):
            connection.exec_driver_sql(f"ALTER TABLE hptune_slots DROP COLUMN {column}")
    assert missing(engine) == "hptune_slots.generation"
    for _ in range(2):  # the second time there is nothing to do
        upgrade(engine)
        assert missing(engine) is None
    with engine.connect() as connection:
        rows = connection.execute(sa.select(SLOTS.c.study_id, SLOTS.c.generation)).all()
    assert sorted(map(tuple, rows)) == [(study, None) for study in (1, 2, 3) for _ in range(3)]


def test_an_upgrade_that_somebody_else_makes_first_is_no_fault(engine, monkeypatch):
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hptune_slots DROP COLUMN generation")
    lacking, found = schema._lacking, []

    def lacking_in_a_moment(engine):
        looked = lacking(engine)
        found.append([str(each) for each in looked])
        if len(found) == 1:  # between the look and the change
            with engine.begin() as connection:
                connection.exec_driver_sql("ALTER TABLE hptune_slots ADD COLUMN generation VARCHAR(32)")
        return looked

    monkeypatch.setattr(schema, "_lacking", lacking_in_a_moment)
    upgrade(engine)
    assert found == [["hptune_slots.generation"], []]


def test_time_is_the_databases_in_seconds_since_the_epoch(engine):
    before = time.time()
    with engine.connect() as connection:
        now = connection.execute(sa.select(database_time(engine))).scalar_one()
    # SQLite's julianday has milliseconds, and its double of days 40 microseconds
    assert before - 0.002 <= now <= time.time() + 0.002
    other = sa.create_engine("postgresql+psycopg://u@127.0.0.1/x")
    written = str(sa.select(database_time(other)).compile(dialect=postgresql.dialect()))
    assert "extract(epoch FROM clock_timestamp())" in written.replace("EXTRACT", "extract")
