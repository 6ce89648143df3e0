"""Optuna's own tables, where its interface cannot do it: a study made with all its attributes in one transaction.

Made attribute by attribute, a study is for a time what a study of someone else's looks like, and stays so if its
maker is killed. Made at once it is there whole or not at all, and nothing ever has to be cleared away.
"""

import json
from collections.abc import Mapping
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.study import StudyDirection

from service.storage.optuna_private import DIRECTIONS, STUDIES, SYSTEM_ATTRIBUTES, USER_ATTRIBUTES
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


def bury(engine: sa.Engine, study: StudyKey) -> None:
    """Remove the slots and workers that studies which are gone have left under the id of this one."""
    with engine.begin() as connection:
        _bury(connection, study)


def _bury(connection: sa.Connection, study: StudyKey) -> None:
    if study.generation is not None:
        for table in (SLOTS, WORKERS):
            connection.execute(table.delete().where(study.remains(table)))
