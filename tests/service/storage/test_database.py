import contextlib
import dataclasses
import sqlite3

import pytest

from service.settings import Settings
from service.storage.database import open_storage
from service.storage.optuna_tables import insert_study
from service.storage.outages import StorageError
from service.storage.schema import GENERATION, StudyKey
from service.storage.slots import Slots
from service.storage.studies import StudyError, load_study


def place(tmp_path, url=None) -> Settings:
    url = url or f"sqlite:///{tmp_path / 'db'}"
    return Settings(storage_url=url, artifacts=tmp_path / "artifacts", cache=tmp_path / "cache")


def refusal(settings, **arguments) -> str:
    with pytest.raises(StorageError) as caught:
        open_storage(settings, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{settings.storage_shown}: ")
    return message


def test_a_storage_is_made_once_and_opened_by_others(tmp_path):
    settings = place(tmp_path, f"sqlite:///{tmp_path / 'new' / 'folder' / 'db'}")
    for _ in range(2):
        storage = open_storage(settings, create=True)
    insert_study(storage.engine, "s", user_attributes={GENERATION: "g"}, system_attributes={})
    Slots(storage.engine, StudyKey(1, "g")).total(2)
    opened = open_storage(settings)
    assert Slots(opened.engine, StudyKey(1, "g")).counts()["open"] == 2


def test_several_processes_may_write_a_sqlite_storage(tmp_path):
    storage = open_storage(place(tmp_path), create=True)
    with storage.engine.connect() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "busy_timeout", "synchronous")
        }
    assert values == {"journal_mode": "wal", "busy_timeout": 60_000, "synchronous": 1}


def test_a_storage_that_is_not_there_is_not_made_by_a_worker(tmp_path):
    assert refusal(place(tmp_path)).endswith("there is no storage yet; ./hptune.sh makes one")
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_refused(tmp_path, create):
    (tmp_path / "db").write_text("a shopping list, and a long one" * 100)
    assert "file is not a database" in refusal(place(tmp_path), create=create)


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    settings = place(tmp_path, f"sqlite:///{tmp_path / 'file' / 'db'}")
    assert "the storage cannot be opened" in refusal(settings, create=True)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "db").mkdir()
    assert "unable to open database file" in refusal(place(tmp_path), create=True)


def test_a_database_of_something_else_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    refusal(place(tmp_path))


def test_another_schema_version_is_refused(tmp_path):
    settings = place(tmp_path)
    open_storage(settings, create=True).engine.dispose()
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    connection.close()
    assert "the storage is of another schema" in refusal(settings)


def test_an_optuna_storage_without_slots_is_refused(tmp_path):
    settings = place(tmp_path)
    open_storage(settings, create=True).engine.dispose()
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("DROP TABLE hptune_slots")
    connection.close()
    assert "not a storage of this project" in refusal(settings)


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path):
    settings = place(tmp_path, "postgresql+psycopg://me:s3cret@127.0.0.1:1/db")  # nothing listens on port 1
    message = refusal(settings, create=True)
    assert "me:***@127.0.0.1:1" in message
    assert "s3cret" not in message


def test_a_study_that_is_not_there_lists_those_that_are(finished, tmp_path):
    storage = open_storage(finished.settings)
    with pytest.raises(StudyError, match=r"^study 'nosuch' is not in sqlite:.*; there are: tiny$"):
        load_study(storage, "nosuch", finished.settings)
    empty = place(tmp_path)
    with pytest.raises(StudyError, match=r"there is none yet$"):
        load_study(open_storage(empty, create=True), "nosuch", empty)


def test_a_storage_may_be_moved(finished, tmp_path):
    with (
        contextlib.closing(sqlite3.connect(finished.folder / "study.db")) as source,
        contextlib.closing(sqlite3.connect(tmp_path / "db")) as target,
    ):
        source.backup(target)
    moved = dataclasses.replace(finished.settings, storage_url=f"sqlite:///{tmp_path / 'db'}")
    study, definition = load_study(open_storage(moved), "tiny", moved)
    assert definition.name == "tiny"
    assert len(study.trials) == 3
