import sqlite3
import threading

import optuna
import psycopg
import pytest
import sqlalchemy as sa
import structlog

from service.storage.outages import Patience, StorageAwayError, is_outage


def busy(tmp_path):
    """The error that SQLite itself raises while another connection writes."""
    path = tmp_path / "busy.db"
    with sqlite3.connect(path) as holder:
        holder.execute("CREATE TABLE t (x)")
        holder.commit()
        holder.execute("BEGIN EXCLUSIVE")
        engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
        with pytest.raises(sa.exc.OperationalError) as caught, engine.connect() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        engine.dispose()
        holder.rollback()
    holder.close()
    return caught.value


def wrong():
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    with pytest.raises(sa.exc.OperationalError) as caught, engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM nosuch")
    engine.dispose()
    return caught.value


def in_optuna(cause):
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = cause
    return error


def test_a_busy_database_is_an_outage_and_a_wrong_statement_is_none(tmp_path):
    error = busy(tmp_path)
    assert is_outage(error)
    assert is_outage(in_optuna(error))
    assert is_outage(sa.exc.TimeoutError("QueuePool limit reached"))
    assert not is_outage(wrong())
    assert not is_outage(in_optuna(wrong()))
    assert not is_outage(ValueError("locked"))


def test_a_call_is_made_again_until_the_storage_is_back(tmp_path):
    error = busy(tmp_path)
    outcomes = [error, in_optuna(error), "done"]

    def call():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with structlog.testing.capture_logs() as lines:
        patience = Patience(60, stopping=threading.Event(), log=structlog.get_logger())
        assert patience(call) == "done"
    assert [(line["event"], line["tries"]) for line in lines] == [
        ("waiting for the storage", 1),
        ("waiting for the storage", 2),
    ]
    assert "locked" in lines[0]["reason"]


def test_other_errors_are_raised_at_once():
    calls = []

    def call():
        calls.append(1)
        raise KeyError("x")

    with pytest.raises(KeyError):
        Patience(60, stopping=threading.Event(), log=structlog.get_logger())(call)
    assert len(calls) == 1


@pytest.mark.parametrize("stopped", [True, False])
def test_patience_ends_with_its_time_or_with_a_stop(tmp_path, stopped):
    error = busy(tmp_path)
    stopping = threading.Event()
    if stopped:
        stopping.set()

    def call():
        raise error

    patience = Patience(3600 if stopped else 0.1, stopping=stopping, log=structlog.get_logger())
    with pytest.raises(StorageAwayError, match=r"^the storage is away \(database is locked\)"):
        patience(call)


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        # what our own storage answers at every start, until it has set its password
        ('FATAL:  no pg_hba.conf entry for host "172.18.0.4", user "hptune", database "hptune"', True),
        ("FATAL:  the database system is starting up", True),
        ('FATAL:  password authentication failed for user "hptune"', False),
        ('FATAL:  role "nobody" does not exist', False),
    ],
)
def test_a_refusal_is_waited_for_where_it_may_pass(said, waits):
    assert is_outage(sa.exc.OperationalError("SELECT 1", {}, psycopg.OperationalError(said))) is waits
