"""The project's own tables, beside Optuna's in the same database: slots and workers.

Their rows are a study's by its id and its generation: an id alone may come again, as SQLite gives that of a deleted
study to the next one that is made, by whatever program.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

GENERATION = "generation"
"""Attribute of a study: like that of no other one that was ever made, by which its slots and workers are known."""

METADATA = sa.MetaData()

SLOTS = sa.Table(
    "hptune_slots",
    METADATA,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    # open | leased | paused | held | closed
    sa.Column("state", sa.String(8), nullable=False, default="open"),
    sa.Column("owner", sa.String(255)),
    sa.Column("leased_until", sa.Float),  # seconds since the epoch
    sa.Column("trial_number", sa.Integer),  # the last trial that ran in it
    sa.Column("attempts", sa.Integer, nullable=False, default=0),  # at failures, as `slots` counts
    sa.Column("lost", sa.String(255)),  # why its last holder lost it, where that is known
    sa.Column("generation", sa.String(32)),  # of the study
    # of a study whose trials pause: claimed of its budget, to the rung that the trial trains to or waits at,
    sa.Column("tokens", sa.BigInteger),
    # and the values that its trial is to have, as JSON; none: the sampler is asked
    sa.Column("point", sa.Text),
    # of one whose budget is in another unit: what a token of the trial costs in it; none: not known yet
    sa.Column("price", sa.Float),
)

WORKERS = sa.Table(
    "hptune_workers",
    METADATA,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("device", sa.String(255), nullable=False),
    sa.Column("alive_until", sa.Float, nullable=False),  # seconds since the epoch, as a lease
    sa.Column("generation", sa.String(32)),  # of the study
)


# Optuna's, as far as they say whether a study is there
_STUDIES = sa.table("studies", sa.column("study_id"))
_ATTRIBUTES = sa.table(
    "study_user_attributes", sa.column("study_id"), sa.column("key"), sa.column("value_json")
)


@dataclass(frozen=True)
class StudyKey:
    """A study among all that the database has ever held."""

    study_id: int
    generation: str | None
    """Made up with the study; None of a study made before studies had one, whose rows have none either."""

    def rows(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """The study's rows of a table, as long as the study itself is there."""
        of_study = table.c.study_id == self.study_id
        return of_study & table.c.generation.is_not_distinct_from(self.generation) & self.is_there

    @property
    def is_there(self) -> sa.ColumnElement[bool]:
        """The study has not been deleted, nor its id been given to another one."""
        if self.generation is None:
            return sa.exists().where(_STUDIES.c.study_id == self.study_id)
        return sa.exists().where(
            _ATTRIBUTES.c.study_id == self.study_id,
            _ATTRIBUTES.c.key == GENERATION,
            _ATTRIBUTES.c.value_json == json.dumps(self.generation),
        )

    def remains(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """The rows that studies which had its id before have left behind; none once the id is another one's."""
        of_study = table.c.study_id == self.study_id
        return of_study & table.c.generation.is_distinct_from(self.generation) & self.is_there


Retry = Callable[[Callable[[], Any]], Any]
"""Calls what it is given, and retries while the database is away."""


def at_once(work: Callable[[], Any]) -> Any:
    """No patience: an outage is raised at the first call."""
    return work()


def create_tables(engine: sa.Engine) -> None:
    """Make the tables that are missing. To be called by one process, before the workers start."""
    METADATA.create_all(engine)


_ADDED = ("generation", "tokens", "point", "price")
"""Columns that tables of an older version lack."""


def upgrade(engine: sa.Engine) -> None:
    """Add the columns that tables of an older version lack. May be called by several processes at once."""
    for column in _lacking(engine):
        if not isinstance(column, sa.Column) or column.name not in _ADDED:
            continue
        kind = column.type.compile(engine.dialect)
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind}")
        except sa.exc.DBAPIError:
            if column in _lacking(engine):  # otherwise another process came first
                raise


def missing(engine: sa.Engine) -> str | None:
    """The first table or column that the database lacks."""
    return next((str(lacking) for lacking in _lacking(engine)), None)


def _lacking(engine: sa.Engine) -> list[sa.Table | sa.Column[Any]]:
    """Tables that are not there, and columns that the others do not have."""
    tables = METADATA.sorted_tables
    # all at once: every process that opens a storage asks
    found = sa.inspect(engine).get_multi_columns(filter_names=[table.name for table in tables])
    columns = {name: {column["name"] for column in each} for (_, name), each in found.items()}
    lacking: list[sa.Table | sa.Column[Any]] = []
    for table in tables:
        if table.name not in columns:
            lacking.append(table)
        else:
            lacking += [column for column in table.columns if column.name not in columns[table.name]]
    return lacking


def database_time(engine: sa.Engine) -> sa.ColumnElement[float]:
    """The database's own clock in seconds since the epoch: the machines' clocks need not agree."""
    if engine.dialect.name == "sqlite":
        return (sa.func.julianday("now") - 2440587.5) * 86400.0
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)
