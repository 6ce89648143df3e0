"""What is written of a trial, many cells in one transaction: Optuna's own storage takes one for each."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from sqlalchemy.dialects import postgresql, sqlite

from service.storage.optuna_private import (
    STUDIES,
    SYSTEM_ATTRIBUTES,
    TRIAL_LOSSES,
    TRIAL_PARAMS,
    TRIAL_SYSTEM_ATTRIBUTES,
    TRIAL_USER_ATTRIBUTES,
    TRIALS,
    stored_loss,
)

_TABLES: Mapping[str, sa.Table] = {
    "user": TRIAL_USER_ATTRIBUTES,
    "system": TRIAL_SYSTEM_ATTRIBUTES,
    "loss": TRIAL_LOSSES,
    "param": TRIAL_PARAMS,
    "study": SYSTEM_ATTRIBUTES,
}


@dataclass(frozen=True)
class Cell:
    """One attribute, value or parameter of a trial, or one system attribute of a study."""

    table: Literal["user", "system", "loss", "param", "study"]
    owner: int
    """The id of the trial, or of the study."""
    key: str | int
    """Its name; of a value its step."""
    values: Mapping[str, Any]
    """The other columns."""


def attribute(table: Literal["user", "system", "study"], owner: int, key: str, value: Any) -> Cell:
    """An attribute, as Optuna stores it."""
    return Cell(table, owner, key, {"value_json": json.dumps(value)})


def parameter(trial_id: int, name: str, value: float, distribution: BaseDistribution) -> Cell:
    """A parameter, its value as Optuna stores it."""
    columns = {"param_value": value, "distribution_json": distribution_to_json(distribution)}
    return Cell("param", trial_id, name, columns)


def loss(trial_id: int, step: int, value: float) -> Cell:
    """What was reported at a step."""
    stored, kind = stored_loss(value)
    return Cell("loss", trial_id, step, {"intermediate_value": stored, "intermediate_value_type": kind})


def write(connection: sa.Connection, cells: Collection[Cell]) -> None:
    """Write the cells in the connection's transaction, over what is there; a parameter stays as it is.

    Raises:
        KeyError: a trial or a study is not there.
        UpdateFinishedTrialError: a trial has ended.
    """
    _check(connection, {cell.owner for cell in cells if cell.table != "study"})
    for study_id in {cell.owner for cell in cells if cell.table == "study"}:
        if connection.execute(sa.select(1).where(STUDIES.c.study_id == study_id)).first() is None:
            raise KeyError(f"no study with id {study_id}")
    for name, table in _TABLES.items():
        owner, key = _names(name)
        rows = {
            (cell.owner, cell.key): {owner: cell.owner, key: cell.key, **cell.values}
            for cell in cells
            if cell.table == name
        }
        if rows:
            connection.execute(_upsert(connection, table, name, list(rows.values())))


def _check(connection: sa.Connection, trial_ids: Collection[int]) -> None:
    query = sa.select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state)
    found = connection.execute(query.where(TRIALS.c.trial_id.in_(trial_ids))).all() if trial_ids else []
    for row in found:
        if row.state.is_finished():
            raise UpdateFinishedTrialError(f"trial {row.number} has ended and can no longer be changed")
    if missing := set(trial_ids) - {row.trial_id for row in found}:
        raise KeyError(f"no trial with id {min(missing)}")


def _names(name: str) -> tuple[str, str]:
    """The columns that make a row the only one of its kind."""
    keys = {"loss": "step", "param": "param_name"}
    return "study_id" if name == "study" else "trial_id", keys.get(name, "key")


def _upsert(connection: sa.Connection, table: sa.Table, name: str, rows: list[dict[str, Any]]) -> Any:
    insert: Any = (
        (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table).values(rows)
    )
    unique = _names(name)
    if name == "param":
        return insert.on_conflict_do_nothing(index_elements=unique)
    changed = {column: insert.excluded[column] for column in rows[0] if column not in unique}
    return insert.on_conflict_do_update(index_elements=unique, set_=changed)
