"""Optuna's own tables, where its interface cannot do it: a study made, renamed or deleted in one transaction.

Made attribute by attribute, a study is for a time what a study of someone else's looks like, and stays so if its
maker is killed. Made at once it is there whole or not at all, and nothing ever has to be cleared away.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import TrialState

from service.storage.optuna_private import (
    DIRECTIONS,
    METADATA,
    STUDIES,
    SYSTEM_ATTRIBUTES,
    TRIAL_USER_ATTRIBUTES,
    TRIAL_VALUES,
    TRIALS,
    USER_ATTRIBUTES,
)
from service.storage.schema import GENERATION, SLOTS, WORKERS, StudyKey


def insert_study(
    engine: sa.Engine,
    name: str,
    *,
    user_attributes: Mapping[str, Any],
    system_attributes: Mapping[str, Any],
) -> None:
    """Make a study that is minimised, whole or not at all.

    Args:
        engine: of the storage.
        name: of the study.
        user_attributes: among them its `GENERATION`.
        system_attributes: Optuna's and the dashboard's.

    Raises:
        DuplicatedStudyError: there is one of this name.
    """
    try:
        with engine.begin() as connection:
            made = connection.execute(STUDIES.insert().values(study_name=name)).inserted_primary_key
            assert made is not None, "one row has been inserted"
            study_id: int = made[0]
            direction = {"study_id": study_id, "objective": 0, "direction": StudyDirection.MINIMIZE}
            connection.execute(DIRECTIONS.insert().values(direction))
            for table, attributes in (
                (USER_ATTRIBUTES, user_attributes),
                (SYSTEM_ATTRIBUTES, system_attributes),
            ):
                for key, value in attributes.items():
                    row = {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
                    connection.execute(table.insert().values(row))
            _bury(connection, StudyKey(study_id, user_attributes[GENERATION]))
    except sa.exc.IntegrityError:
        raise optuna.exceptions.DuplicatedStudyError(name) from None


@dataclass(frozen=True)
class Tally:
    """How many trials of each state a study has, its lowest value, and when a trial last ended."""

    states: Mapping[TrialState, int]
    best: float | None
    last: datetime | None
    resumed: int = 0
    """Of those that failed: interrupted, and another trial has gone on with them."""


def tallies(engine: sa.Engine) -> dict[int, Tally]:
    """The tally of each study that has trials, by its id; without reading the trials themselves."""
    states = sa.select(
        TRIALS.c.study_id, TRIALS.c.state, sa.func.count(), sa.func.max(TRIALS.c.datetime_complete)
    ).group_by(TRIALS.c.study_id, TRIALS.c.state)
    best = (
        sa.select(TRIALS.c.study_id, sa.func.min(TRIAL_VALUES.c.value))
        .join(TRIAL_VALUES, TRIAL_VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.state == TrialState.COMPLETE, TRIAL_VALUES.c.objective == 0)
        .group_by(TRIALS.c.study_id)
    )
    attributes = TRIAL_USER_ATTRIBUTES.c
    taken = sa.select(TRIALS.c.study_id, attributes.value_json).join(
        TRIALS, TRIALS.c.trial_id == attributes.trial_id
    )
    failed = sa.select(TRIALS.c.study_id, TRIALS.c.number).where(TRIALS.c.state == TrialState.FAIL)
    with engine.connect() as connection:
        counted = connection.execute(states).all()
        gone_on_with = {
            (row[0], json.loads(row[1]))
            for row in connection.execute(taken.where(attributes.key == "goes_on_with"))
        }
        resumed = Counter(row[0] for row in connection.execute(failed) if tuple(row) in gone_on_with)
        lowest = {row[0]: row[1] for row in connection.execute(best)}
    found: dict[int, Tally] = {}
    for study_id in dict.fromkeys(row[0] for row in counted):
        mine = [row for row in counted if row[0] == study_id]
        ends = [row[3].replace(tzinfo=UTC).astimezone() for row in mine if row[3] is not None]
        found[study_id] = Tally(
            {row[1]: row[2] for row in mine}, lowest.get(study_id), max(ends, default=None), resumed[study_id]
        )
    return found


def rename_study(engine: sa.Engine, study: StudyKey, name: str, attributes: Mapping[str, Any]) -> None:
    """Give a study another name, and attributes of its new values, in one transaction.

    Raises:
        DuplicatedStudyError: there is one of this name.
    """
    try:
        with engine.begin() as connection:
            mine = STUDIES.c.study_id == study.study_id
            connection.execute(STUDIES.update().where(mine).values(study_name=name))
            for key, value in attributes.items():
                of = (USER_ATTRIBUTES.c.study_id == study.study_id) & (USER_ATTRIBUTES.c.key == key)
                connection.execute(USER_ATTRIBUTES.update().where(of).values(value_json=json.dumps(value)))
    except sa.exc.IntegrityError:
        raise optuna.exceptions.DuplicatedStudyError(name) from None


def delete_study(engine: sa.Engine, study: StudyKey) -> None:
    """Remove a study with its trials, slots and workers, in one transaction.

    Optuna's own way reads every attribute of every trial first, which takes minutes for some thousand trials.
    """
    trials = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study.study_id)
    with engine.begin() as connection:
        for table in (SLOTS, WORKERS):
            connection.execute(table.delete().where(study.rows(table)))
        for table in reversed(METADATA.sorted_tables):
            if "trial_id" in table.c and table is not TRIALS:
                connection.execute(table.delete().where(table.c.trial_id.in_(trials)))
            elif "study_id" in table.c:
                connection.execute(table.delete().where(table.c.study_id == study.study_id))


def bury(engine: sa.Engine, study: StudyKey) -> None:
    """Remove the slots and workers that studies which are gone have left under the id of this one."""
    with engine.begin() as connection:
        _bury(connection, study)


def _bury(connection: sa.Connection, study: StudyKey) -> None:
    if study.generation is not None:
        for table in (SLOTS, WORKERS):
            connection.execute(table.delete().where(study.remains(table)))
