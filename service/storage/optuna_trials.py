"""Finished trials put into a study at once, all of them or none.

Optuna's `add_trials` makes several queries for every parameter and attribute, each trial in a transaction of its own:
minutes for some thousand trials, and a part of them where it breaks off.
"""

import json
from collections.abc import Iterator, Sequence
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
        # as Optuna does, so that no worker takes the same numbers meanwhile
        connection.execute(
            sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id).with_for_update()
        )
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
        for table, parts in _PARTS.items():
            of_all = [row for each, trial in zip(ids, trials, strict=True) for row in parts(each, trial)]
            if of_all:
                connection.execute(table.insert(), of_all)


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
