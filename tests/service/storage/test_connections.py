import sqlite3

import psycopg
import pytest
import sqlalchemy as sa

from service.storage import connections
from service.storage.connections import for_one_statement, try_when_idle
from service.storage.outages import is_outage


def test_nothing_is_sent_to_begin_or_end_a_transaction_of_one_statement(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE a (b INTEGER)")
    sent: list[str] = []
    with for_one_statement(engine) as connection:
        connection.connection.driver_connection.set_trace_callback(sent.append)
        connection.exec_driver_sql("INSERT INTO a VALUES (1)")
        connection.connection.driver_connection.set_trace_callback(None)
    assert sent == ["INSERT INTO a VALUES (1)"]
    with sqlite3.connect(tmp_path / "a.db") as other:
        assert other.execute("SELECT b FROM a").fetchall() == [(1,)]
    with engine.connect() as connection:  # the next one has transactions again
        connection.exec_driver_sql("INSERT INTO a VALUES (2)")
        connection.rollback()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT b FROM a").all() == [(1,)]
    engine.dispose()


@pytest.mark.integration
def test_a_connection_that_the_server_has_ended_is_replaced_once_it_was_idle(postgresql, monkeypatch):
    url = postgresql.new_database()
    engine = sa.create_engine(url, pool_size=1)
    try_when_idle(engine)

    def server_process() -> int:
        with for_one_statement(engine) as connection:
            return connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

    def end(process: int) -> None:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
            assert other.execute("SELECT pg_terminate_backend(%s, 10000)", (process,)).fetchone() == (True,)

    first = server_process()
    assert server_process() == first
    end(first)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
    second = server_process()
    assert second != first
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1e9)
    end(second)
    with pytest.raises(sa.exc.DBAPIError) as caught:  # whoever is patient calls again
        server_process()
    assert is_outage(caught.value)
    assert server_process() not in (first, second)
    engine.dispose()
