"""Trials put into a study at once, all of them with all that they have, or none.

Optuna's `add_trials` makes several queries for every parameter and attribute, each trial in a transaction of its own:
minutes for some thousand trials, and a part of them where it breaks off.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from service.storage.optuna_private import (
    STUDIES,
    TRIAL_LOSSES,
    TRIAL_PARAMS,
    TRIAL_SYSTEM_ATTRIBUTES,
    TRIAL_USER_ATTRIBUTES,
    TRIAL_VALUES,
    TRIALS,
    numbered,
    stored_loss,
    stored_value,
)


def insert_trials(engine: sa.Engine, study_id: int, trials: Sequence[FrozenTrial]) -> None:
    """Add finished trials to a study, numbered behind those that it has, in this order.

    Their parameters have the distributions that the study's own trials have.
    """
    if not trials:
        return
    rows = [
        {
            "study_id": study_id,
            "state": trial.state,
            "datetime_start": _stored_time(trial.datetime_start),
            "datetime_complete": _stored_time(trial.datetime_complete),
        }
        for trial in trials
    ]
    with engine.begin() as connection:
        _lock_numbers(connection, study_id)
        inserted = TRIALS.insert().returning(TRIALS.c.trial_id, sort_by_parameter_order=True)
        ids = list(connection.execute(inserted, rows).scalars())
        earlier = sa.select(sa.func.count()).where(
            TRIALS.c.study_id == study_id, TRIALS.c.trial_id < min(ids)
        )
        first = connection.execute(earlier).scalar_one()
        numbered = (
            TRIALS.update().where(TRIALS.c.trial_id == sa.bindparam("of")).values(number=sa.bindparam("n"))
        )
        connection.execute(numbered, [{"of": each, "n": first + i} for i, each in enumerate(ids)])
        _insert_parts(connection, dict(zip(ids, trials, strict=True)))


def insert_trial(connection: sa.Connection, study_id: int, trial: FrozenTrial) -> FrozenTrial:
    """Add one trial, of any state, behind those that the study has; as it is then.

    Raises:
        KeyError: there is no such study.
    """
    _lock_numbers(connection, study_id)
    values = {
        "study_id": study_id,
        "state": trial.state,
        "number": sa.select(sa.func.count()).where(TRIALS.c.study_id == study_id).scalar_subquery(),
        "datetime_start": _stored_time(trial.datetime_start),
        "datetime_complete": _stored_time(trial.datetime_complete),
    }
    insert = TRIALS.insert().values(values).returning(TRIALS.c.trial_id, TRIALS.c.number)
    trial_id, number = connection.execute(insert).one()
    _insert_parts(connection, {trial_id: trial})
    return numbered(trial, trial_id=trial_id, number=number)


def _lock_numbers(connection: sa.Connection, study_id: int) -> None:
    """See that nobody else gives out numbers of the study until the transaction ends, as Optuna does.

    Raises:
        KeyError: there is no such study.
    """
    # on PostgreSQL FOR NO KEY UPDATE, which excludes Optuna's own FOR UPDATE as itself, and not the looks at the study
    # that come with every attribute written of it
    mine = sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id)
    if connection.execute(mine.with_for_update(key_share=True)).first() is None:
        raise KeyError(f"no study with id {study_id}")


def _insert_parts(connection: sa.Connection, trials: Mapping[int, FrozenTrial]) -> None:
    for table, parts in _PARTS.items():
        rows = [row for trial_id, trial in trials.items() for row in parts(trial_id, trial)]
        if rows:
            connection.execute(table.insert(), rows)


def _stored_time(time: datetime | None) -> datetime | None:
    """Optuna gives local time without a zone, and stores UTC."""
    return None if time is None else time.astimezone(UTC).replace(tzinfo=None)


def _parameters(trial_id: int, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        yield {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distribution.to_internal_repr(value),
            "distribution_json": distribution_to_json(distribution),
        }


def _values(trial_id: int, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for objective, each in enumerate(trial.values or ()):
        value, kind = stored_value(each)
        yield {"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind}


def _reports(trial_id: int, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for step, each in trial.intermediate_values.items():
        value, kind = stored_loss(each)
        yield {
            "trial_id": trial_id,
            "step": step,
            "intermediate_value": value,
            "intermediate_value_type": kind,
        }


def _user_attributes(trial_id: int, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for key, value in trial.user_attrs.items():
        yield {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}


def _system_attributes(trial_id: int, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for key, value in trial.system_attrs.items():
        yield {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}


_PARTS = {
    TRIAL_PARAMS: _parameters,
    TRIAL_VALUES: _values,
    TRIAL_LOSSES: _reports,
    TRIAL_USER_ATTRIBUTES: _user_attributes,
    TRIAL_SYSTEM_ATTRIBUTES: _system_attributes,
}
