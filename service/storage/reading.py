"""Trials read in one query, whatever their number: Optuna's own storage takes seven statements and its object mapper.

A worker asks for all trials before every trial, and for the finished ones at every rung. What is finished never
changes and is read once (`service.storage.study_storage`); of the rest only what has changed or can be seen.
"""

import json
import math
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from service.storage.optuna_private import (
    STUDIES,
    TRIAL_LOSSES,
    TRIAL_PARAMS,
    TRIAL_SYSTEM_ATTRIBUTES,
    TRIAL_USER_ATTRIBUTES,
    TRIAL_VALUES,
    TRIALS,
    artifact_key,
)

_NUMBERS = {"FINITE": None, "INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
"""What Optuna's types of stored numbers stand for; None: the number itself."""


def read_trials(
    connection: sa.Connection,
    study_id: int,
    *,
    ids: Collection[int],
    beyond: int,
    with_running: bool = True,
    attributes: Collection[str] | None = None,
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """Some trials of a study, as Optuna's storage builds them, in the order of their ids.

    Args:
        connection: to the storage.
        study_id: of the study.
        ids: of trials to read.
        beyond: all with a larger id are read as well.
        with_running: whether running trials are wanted with what they have.
        attributes: the user attributes that are wanted, and no lists of artifacts; None: all there is.

    Returns:
        The trials, and apart from them those that are running where these are not wanted: without parameters, values
        and attributes.

    Raises:
        KeyError: there is no such study.
    """
    names = None if attributes is None else tuple(sorted(attributes))
    query = _of_study(connection.dialect.name, beyond >= 0, with_running, names)
    some = {"ids": sorted(ids), "beyond": beyond} if beyond >= 0 else {}
    rows = connection.execute(query, {"study": study_id, **some}).all()
    if not any(row.kind == "study" for row in reversed(rows)):
        raise KeyError(f"no study with id {study_id}")
    return _built(rows, with_running)


def read_trial(connection: sa.Connection, trial_id: int) -> FrozenTrial:
    """One trial. Raises KeyError: there is none of this id."""
    found, _ = _built(connection.execute(_of_one(), {"trial": trial_id}).all(), True)
    if not found:
        raise KeyError(f"no trial with id {trial_id}")
    return found[0]


# Statements are made once: that takes longer than to send one and to read its answer.


@cache
def _of_one() -> sa.CompoundSelect[Any]:
    due = TRIALS.c.trial_id == sa.bindparam("trial", type_=sa.Integer)
    return sa.union_all(*_parts(due, True, None))


@cache
def _of_study(
    dialect: str, only_some: bool, with_running: bool, attributes: tuple[str, ...] | None
) -> sa.CompoundSelect[Any]:
    study = sa.bindparam("study", type_=sa.Integer)
    due = TRIALS.c.study_id == study
    if only_some:
        beyond = TRIALS.c.trial_id > sa.bindparam("beyond", type_=sa.Integer)
        if dialect == "postgresql":  # one parameter, so that the statement stays the same
            array = sa.cast(sa.bindparam("ids", type_=sa.ARRAY(sa.Integer)), sa.ARRAY(sa.Integer))
            due &= beyond | (TRIALS.c.trial_id == sa.any_(array))
        else:
            due &= beyond | TRIALS.c.trial_id.in_(sa.bindparam("ids", expanding=True))
    there = _row("study", sa.literal(0)).select_from(STUDIES).where(STUDIES.c.study_id == study)
    return sa.union_all(*_parts(due, with_running, attributes), there)


def _row(kind: str, trial: Any, *cells: Any) -> sa.Select[Any]:
    """Rows of one shape: kind, trial, key, text, whole number, number, begin, end."""
    text, integer, number, time = sa.String(), sa.Integer(), sa.Float(53), sa.DateTime()
    types: tuple[sa.types.TypeEngine[Any], ...] = (text, text, integer, number, time, time)
    filled = [*cells, *[None] * (len(types) - len(cells))]
    shaped = [sa.cast(cell, type_) for cell, type_ in zip(filled, types, strict=True)]
    names = ("key", "text", "whole", "number", "begin", "until")
    labelled = [cell.label(name) for cell, name in zip(shaped, names, strict=True)]
    return sa.select(sa.literal(kind, text).label("kind"), sa.cast(trial, integer).label("trial"), *labelled)


def _parts(
    due: sa.ColumnElement[bool], with_running: bool, attributes: tuple[str, ...] | None
) -> list[sa.Select[Any]]:
    """All that belongs to the trials that are due."""
    columns = (TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state)
    times = (TRIALS.c.datetime_start, TRIALS.c.datetime_complete)
    trials = sa.select(*columns, *times).where(due).cte("due")
    c, text, number = trials.c, sa.String(), sa.Float(53)

    def of(table: sa.Table, kind: str, *cells: Any) -> sa.Select[Any]:
        found = _row(kind, table.c.trial_id, *cells).join_from(
            table, trials, table.c.trial_id == trials.c.trial_id
        )
        return found if with_running else found.where(c.state != TrialState.RUNNING)

    user = of(TRIAL_USER_ATTRIBUTES, "user", TRIAL_USER_ATTRIBUTES.c.key, TRIAL_USER_ATTRIBUTES.c.value_json)
    system = of(
        TRIAL_SYSTEM_ATTRIBUTES, "system", TRIAL_SYSTEM_ATTRIBUTES.c.key, TRIAL_SYSTEM_ATTRIBUTES.c.value_json
    )
    if attributes is not None:
        user = user.where(TRIAL_USER_ATTRIBUTES.c.key.in_(attributes))
        system = system.where(~TRIAL_SYSTEM_ATTRIBUTES.c.key.startswith(artifact_key("")))
    return [
        # not cast: SQLite has times as text, which a cast would make numbers
        sa.select(
            sa.literal("trial", text).label("kind"), c.trial_id.label("trial"), sa.cast(sa.null(), text).label("key"),
            sa.cast(c.state, text).label("text"), c.number.label("whole"), sa.cast(sa.null(), number).label("number"),
            c.datetime_start.label("begin"), c.datetime_complete.label("until"),
        ),
        of(TRIAL_PARAMS, "param", TRIAL_PARAMS.c.param_name, TRIAL_PARAMS.c.distribution_json, TRIAL_PARAMS.c.param_id,
           TRIAL_PARAMS.c.param_value),
        of(TRIAL_VALUES, "value", sa.null(), TRIAL_VALUES.c.value_type, TRIAL_VALUES.c.objective, TRIAL_VALUES.c.value),
        of(TRIAL_LOSSES, "loss", sa.null(), TRIAL_LOSSES.c.intermediate_value_type, TRIAL_LOSSES.c.step,
           TRIAL_LOSSES.c.intermediate_value),
        user,
        system,
    ]  # fmt: skip


def _built(rows: Iterable[sa.Row[Any]], with_running: bool) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    heads: list[Any] = []
    parts: dict[int, dict[str, list[Any]]] = {}
    for row in rows:
        if row.kind == "trial":
            heads.append(row)
        elif row.kind != "study":
            parts.setdefault(row.trial, {}).setdefault(row.kind, []).append(row)
    heads.sort(key=lambda head: head.trial)
    whole: list[FrozenTrial] = []
    running: list[FrozenTrial] = []
    for head in heads:
        trial = _trial(head, parts.get(head.trial, {}))
        apart = not with_running and trial.state == TrialState.RUNNING
        (running if apart else whole).append(trial)
    return whole, running


def _trial(head: Any, parts: dict[str, list[Any]]) -> FrozenTrial:
    params = sorted(parts.get("param", ()), key=lambda row: row.whole)
    distributions = {row.key: _distribution(row.text) for row in params}
    values = {row.whole: _number(row.text, row.number) for row in parts.get("value", ())}
    return FrozenTrial(
        number=head.whole,
        state=TrialState[head.text],
        value=None,
        values=[values[objective] for objective in sorted(values)] if values else None,
        datetime_start=_local(head.begin),
        datetime_complete=_local(head.until),
        params={row.key: distributions[row.key].to_external_repr(row.number) for row in params},
        distributions=distributions,
        user_attrs={row.key: json.loads(row.text) for row in parts.get("user", ())},
        system_attrs={row.key: json.loads(row.text) for row in parts.get("system", ())},
        intermediate_values={row.whole: _number(row.text, row.number) for row in parts.get("loss", ())},
        trial_id=head.trial,
    )


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    """Of a study's parameters there are a few, which all of its trials share."""
    return json_to_distribution(text)


def _number(kind: str, stored: float | None) -> float:
    special = _NUMBERS[kind]
    if special is not None:
        return special
    assert stored is not None, "a finite number is stored as it is"
    return stored


def _local(utc: datetime | None) -> datetime | None:
    """A time as Optuna's storage gives it: stored in UTC, told by the clock of this machine."""
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
