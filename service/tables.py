"""The project's own tables, beside Optuna's in the same database: slots and workers."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()

SLOTS = sa.Table(
    "hptune_slots",
    METADATA,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(8), nullable=False, default="open"),  # open | leased | held | closed
    sa.Column("owner", sa.String(255)),
    sa.Column("leased_until", sa.Float),  # seconds since the epoch
    sa.Column("trial_number", sa.Integer),  # the last trial that ran in it
    sa.Column("attempts", sa.Integer, nullable=False, default=0),  # failures since its trial last got on
    sa.Column("lost", sa.String(255)),  # why its last holder lost it, where that is known
)

WORKERS = sa.Table(
    "hptune_workers",
    METADATA,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("device", sa.String(255), nullable=False),
    sa.Column("alive_until", sa.Float, nullable=False),  # seconds since the epoch, as a lease
)

Patience = Callable[[Callable[[], Any]], Any]
"""Calls what it is given, again and again while the database is away."""


def at_once(work: Callable[[], Any]) -> Any:
    """No patience: an outage is raised at the first call."""
    return work()


def create_tables(engine: sa.Engine) -> None:
    """Make the tables that are missing. To be called by one process, before the workers start."""
    METADATA.create_all(engine)


def missing(engine: sa.Engine) -> str | None:
    """The first table or column that the database lacks."""
    found = sa.inspect(engine)
    for table in METADATA.sorted_tables:
        if not found.has_table(table.name):
            return table.name
        there = {column["name"] for column in found.get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                return f"{table.name}.{column.name}"
    return None


def database_time(engine: sa.Engine) -> sa.ColumnElement[float]:
    """The database's own clock in seconds since the epoch: the machines' clocks need not agree."""
    if engine.dialect.name == "sqlite":
        return (sa.func.julianday("now") - 2440587.5) * 86400.0
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)
