"""What other studies tell a search, as its worker reads it when it begins: its `prior`, and the noise between seeds."""

import contextlib
from typing import Any

import structlog

from model.errors import UserError
from service.search.earlier import Earlier
from service.storage.earlier_trials import are_recorded, recorded_trials, whole_trials
from service.storage.opened_study import OpenedStudy, open_study
from service.storage.seed_noise import noise_between_seeds
from service.study.samplers import FEWEST_EARLIER
from service.study.search_space import Values


def earlier_studies(
    opened: OpenedStudy, names: tuple[str, ...], *, log: structlog.stdlib.BoundLogger
) -> tuple[Earlier, ...]:
    """The studies of these names in the space of the opened one; one that is gone, or says too little, is left out."""
    found = []
    for name in names:
        try:
            seen = _seen(opened, name)
        except UserError as error:
            log.warning(
                "an earlier study cannot be read, its trials are left out", study=name, reason=str(error)
            )
            continue
        if len(seen) < FEWEST_EARLIER:
            log.warning(
                "an earlier study says too little", study=name, trials=len(seen), fewest=FEWEST_EARLIER
            )
            continue
        found.append(Earlier.of(opened.definition.space, seen))
        log.info("an earlier study is learned from", study=name, trials=len(seen))
    return tuple(found)


def _seen(opened: OpenedStudy, name: str) -> list[tuple[Values, float]]:
    if are_recorded(name):
        return recorded_trials(name, opened.definition)
    # by itself: the storage of the opened one shows its worker no trial of another space
    with contextlib.closing(open_study(opened.settings, name)) as other:
        return whole_trials(other.study, other.definition, opened.definition)


def when_to_stop(opened: OpenedStudy, *, log: structlog.stdlib.BoundLogger) -> dict[str, Any]:
    """When the search stops by itself, as `Thaw` takes it; never where the study that would say so is gone."""
    stop = opened.definition.stop
    if stop is None or stop.noise is None:
        return {} if stop is None else {"stop_gain": stop.gain}
    try:
        with contextlib.closing(open_study(opened.settings, stop.noise)) as other:
            sd, _ = noise_between_seeds(other.storage, stop.noise, opened.settings)
    except UserError as error:
        log.warning("the search will not stop by itself: nobody says what seeds differ by", reason=str(error))
        return {}
    return {"stop_gain": sd, "stop_by": f"the noise between seeds, measured by {stop.noise},"}
