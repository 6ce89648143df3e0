import sqlite3

import psycopg
import pytest
import sqlalchemy as sa

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
def test_a_connection_that_the_server_has_ended_is_replaced_once_it_was_idle(postgresql):
    url = postgresql.new_database()
    impatient, patient = (sa.create_engine(url, pool_size=1) for _ in range(2))
    try_when_idle(impatient, seconds=0.0)
    try_when_idle(patient, seconds=1e9)

    def server_process(engine: sa.Engine) -> int:
        with for_one_statement(engine) as connection:
            return connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

    def end(process: int) -> None:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
            assert other.execute("SELECT pg_terminate_backend(%s, 10000)", (process,)).fetchone() == (True,)

    for engine in (impatient, patient):
        assert server_process(engine) == server_process(engine)
    first = server_process(impatient)
    end(first)
    assert server_process(impatient) != first
    second = server_process(patient)
    end(second)
    with pytest.raises(sa.exc.DBAPIError) as caught:
        server_process(patient)
    assert is_outage(caught.value)  # so that the call is made again
    assert server_process(patient) != second
    for engine in (impatient, patient):
        engine.dispose()
