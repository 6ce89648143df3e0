"""What is written of a trial, many cells in one transaction: Optuna's own storage takes one for each."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
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
    """Write the cells, over what is there; a parameter stays as it is.

    Several belong into a transaction; one is a transaction by itself.

    Raises:
        KeyError: a trial or a study is not there.
        UpdateFinishedTrialError: a trial has ended.
    """
    for name in _TABLES:
        owner, key = _names(name)
        rows = [
            {
                f"new_{column}": value
                for column, value in {owner: cell.owner, key: cell.key, **cell.values}.items()
            }
            for cell in cells
            if cell.table == name
        ]
        if rows:
            written = connection.execute(
                _statement(connection.dialect.name, name), rows, execution_options={"preserve_rowcount": True}
            )
            if written.rowcount != len(rows):
                raise _refusal(connection, name, {cell.owner for cell in cells if cell.table == name})


def _refusal(connection: sa.Connection, name: str, owners: Collection[int]) -> Exception:
    """Why not all was written that was to be of these studies or trials."""
    if name == "study":
        return KeyError(f"no study with id {min(owners)}")
    query = sa.select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state)
    found = connection.execute(query.where(TRIALS.c.trial_id.in_(owners))).all()
    for row in found:
        if row.state.is_finished():
            return UpdateFinishedTrialError(f"trial {row.number} has ended and can no longer be changed")
    return KeyError(f"no trial with id {min(set(owners) - {row.trial_id for row in found})}")


def _names(name: str) -> tuple[str, str]:
    """The columns that make a row the only one of its kind."""
    keys = {"loss": "step", "param": "param_name"}
    return "study_id" if name == "study" else "trial_id", keys.get(name, "key")


@cache
def _statement(dialect: str, name: str) -> Any:
    """Writes a row if its study is there, or its trial and has not ended: looked at and written in one statement."""
    table, unique = _TABLES[name], _names(name)
    columns = [column for column in table.columns if not column.primary_key]
    new = {column.name: sa.bindparam(f"new_{column.name}", type_=column.type) for column in columns}
    if name == "study":
        writable = STUDIES.c.study_id == new["study_id"]
    else:
        of_states = [TRIALS.c.state == state for state in TrialState if not state.is_finished()]
        writable = (TRIALS.c.trial_id == new["trial_id"]) & sa.or_(*of_states)
    insert: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    insert = insert.from_select(list(new), sa.select(*new.values()).where(writable))
    # a parameter that is there is written over with itself, so that it counts as written
    changed = ["param_name"] if name == "param" else [column for column in new if column not in unique]
    return insert.on_conflict_do_update(
        index_elements=unique, set_={column: insert.excluded[column] for column in changed}
    )
