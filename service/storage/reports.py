"""What all trials of a study have reported and are made of, in a query each.

Optuna's own interface reads every attribute of every trial that has not ended, and paused ones have not.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import TrialState

from service.storage.optuna_private import (
    TRIAL_LOSSES,
    TRIAL_PARAMS,
    TRIAL_USER_ATTRIBUTES,
    TRIAL_VALUES,
    TRIALS,
)
from service.storage.slots import Slots


@dataclass(frozen=True)
class Reported:
    """A trial, as far as it has come."""

    state: TrialState
    ended: str
    """Why it ended, for people; empty where nobody has said so."""
    losses: Mapping[int, float] = field(default_factory=dict)
    """By training tokens."""
    value: float | None = None
    """Its result, once it is complete."""


def read_reports(slots: Slots) -> dict[int, Reported]:
    """All trials of the slots' study by number."""
    ended, of_trial = TRIAL_USER_ATTRIBUTES, TRIALS.c.trial_id
    query = (
        sa.select(
            TRIALS.c.number,
            TRIALS.c.state,
            ended.c.value_json,
            TRIAL_LOSSES.c.step,
            TRIAL_LOSSES.c.intermediate_value,
            TRIAL_VALUES.c.value,
        )
        .outerjoin_from(TRIALS, ended, (ended.c.trial_id == of_trial) & (ended.c.key == "ended"))
        .outerjoin(TRIAL_LOSSES, TRIAL_LOSSES.c.trial_id == of_trial)
        .outerjoin(TRIAL_VALUES, TRIAL_VALUES.c.trial_id == of_trial)
        .where(TRIALS.c.study_id == slots.study.study_id)
    )
    found: dict[int, Reported] = {}
    losses: dict[int, dict[int, float]] = {}
    for number, state, reason, step, loss, value in slots.read(query):
        of_number = losses.setdefault(number, {})
        if number not in found:
            found[number] = Reported(state, json.loads(reason) if reason else "", of_number, value)
        if loss is not None:
            of_number[step] = loss
    return found


def read_params(slots: Slots, numbers: Collection[int]) -> dict[int, dict[str, Any]]:
    """The parameters of the trials of these numbers, as `FrozenTrial.params` has them."""
    query = (
        sa.select(
            TRIALS.c.number,
            TRIAL_PARAMS.c.param_name,
            TRIAL_PARAMS.c.param_value,
            TRIAL_PARAMS.c.distribution_json,
        )
        .join_from(TRIALS, TRIAL_PARAMS, TRIAL_PARAMS.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == slots.study.study_id, TRIALS.c.number.in_(numbers))
    )
    found: dict[int, dict[str, Any]] = {number: {} for number in numbers}
    for number, name, value, distribution in slots.read(query):
        found[number][name] = _distribution(distribution).to_external_repr(value)
    return found


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
