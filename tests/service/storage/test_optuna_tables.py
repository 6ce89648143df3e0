import optuna
import pytest
import sqlalchemy as sa

from service.storage.optuna_private import METADATA, id_of, storage_of
from service.storage.optuna_tables import bury, insert_study
from service.storage.schema import GENERATION, SLOTS, StudyKey, create_tables


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    METADATA.create_all(engine)
    create_tables(engine)
    yield engine
    engine.dispose()


def slots(engine):
    with engine.connect() as connection:
        return sorted(map(tuple, connection.execute(sa.select(SLOTS.c.study_id, SLOTS.c.generation))))


def add_slot(engine, study_id, generation, *, slot=0):
    with engine.begin() as connection:
        connection.execute(SLOTS.insert().values(study_id=study_id, slot=slot, generation=generation))


def insert(engine, name, generation, **attributes):
    insert_study(
        engine, name, user_attributes={GENERATION: generation, **attributes}, system_attributes={"s": [1]}
    )


def test_a_study_is_there_as_optuna_itself_reads_it(engine):
    insert(engine, "a", "g", question="Why – and how?", facts={"n": [1, 2.5, None]})
    study = optuna.load_study(study_name="a", storage=str(engine.url))
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.user_attrs == {GENERATION: "g", "question": "Why – and how?", "facts": {"n": [1, 2.5, None]}}
    assert storage_of(study).get_study_system_attrs(id_of(study)) == {"s": [1]}
    study.tell(study.ask(), 1.0)
    assert study.best_value == 1.0


def test_a_name_is_given_once_and_the_second_leaves_nothing(engine):
    insert(engine, "a", "g")
    add_slot(engine, 2, "old")  # under the id that the second one would have had
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        insert(engine, "a", "h")
    assert slots(engine) == [(2, "old")]
    assert len(optuna.get_all_study_names(str(engine.url))) == 1


def test_a_study_that_cannot_be_made_whole_is_not_made(engine):
    with pytest.raises(TypeError):
        insert(engine, "a", "g", wrong=object())
    assert optuna.get_all_study_names(str(engine.url)) == []


def test_what_a_deleted_study_has_left_under_the_id_goes_with_the_next_one(engine):
    add_slot(engine, 1, "old")
    add_slot(engine, 7, "other")
    insert(engine, "a", "g")
    assert slots(engine) == [(7, "other")]


def test_burying_leaves_the_studys_own_and_what_is_not_known_to_be_dead(engine):
    insert(engine, "a", "g")
    for slot, generation in enumerate(("g", "old")):
        add_slot(engine, 1, generation, slot=slot)
    bury(engine, StudyKey(1, None))  # of an older version: nothing is known of its rows
    assert slots(engine) == [(1, "g"), (1, "old")]
    bury(engine, StudyKey(1, "g"))
    assert slots(engine) == [(1, "g")]
