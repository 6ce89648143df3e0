"""A confirmation: a search's best configurations and its baseline, run again on seeds that the search never used.

It is a study of its own in the same storage, a design of named arms and seeds over the search's corpus, so that
workers anywhere run it as any other one. Seeds are the outer loop, and nothing is pruned. The baseline is
the search's base file as it is, whether or not the search has run it. What the search is told of it is the winner.
"""

import contextlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from model.config.data import LARGEST_SEED
from model.errors import ConfigError
from service.confirmation import elimination, verdict
from service.confirmation.verdict import Verdict
from service.dashboard.notes import study_note
from service.settings import Settings
from service.storage.configurations import configuration_of
from service.storage.database import creation_lock
from service.storage.opened_study import OpenedStudy, open_study
from service.storage.optuna_tables import bury
from service.storage.ownership import generation_of
from service.storage.ranking import count_states, ranked_trials
from service.storage.studies import CONFIRMS, StudyError, create_study, find_study
from service.study.definition import StudyDefinition
from service.study.file import checked_name
from service.study.parameters import same
from service.study.run_config import RunConfig
from service.study.search_space import Values, leaves
from service.text.commands import verb

CONFIRMED = "confirmed"
"""Attribute of the search: its confirmation, the confirmed winner there and what ties with it."""
TOP = 5
"""Finalists unless told otherwise."""
MAX_SEEDS = 20
"""Seeds that a confirmation's design has. How many of them are run its slots say, so that more can be asked for later:
Optuna lets no study change the choices of a parameter, of which the seed is one."""


def prepare(
    settings: Settings,
    study: str,
    *,
    top: int | None,
    seeds: int,
    name: str | None = None,
    say: Callable[[str], None],
) -> tuple[str, StudyDefinition]:
    """See that the confirmation of a study is there and has slots for `seeds` seeds of every configuration.

    A confirmation that is met again keeps its finalists and its seeds; further seeds are added behind them.

    Args:
        settings: where storage and artifacts are.
        study: the search, in the storage.
        top: finalists; `TOP`, or those that it was made with, unless given.
        seeds: from 2 to `MAX_SEEDS`.
        name: what to call it in the storage; the study's name with `-confirm` behind it unless given.
        say: takes a line for the user.

    Returns:
        Its name in the storage and its definition.

    Raises:
        StudyError: there is no such study, it has nothing to confirm, or the confirmation was made differently.
    """
    given_name, name = name, checked_name(name or f"{study}-confirm")
    with creation_lock(settings), contextlib.ExitStack() as stack:
        searched = open_study(settings, study)
        stack.callback(searched.close)
        refuse_confirmation(searched.study)
        met = find_study(searched.storage, name)
        if met is None:
            command = _command(study, top, seeds, given_name)
            found, made = _make(searched, name, top or TOP, command=command, say=say)
            finalists = len(set(made.arms)) - 1
            if finalists < (top or 0):
                say(f"study {study} has no more than {finalists} to confirm")
        else:
            found, made = met
            _refuse_other(found, searched, top=top, say=say)
        confirmation = replace(searched, study=found, definition=made)
        bury(searched.storage.engine, confirmation.key)
        confirmation.slots.total(seeds * len(set(made.arms)))
    return name, made


def conclude(settings: Settings, name: str) -> tuple[Verdict, Mapping[str, Any]]:
    """The verdict of a confirmation whose slots are closed; its winner is recorded in the search.

    Returns:
        The verdict, and what the confirmation knows of the search: its `study`, `top` and `finalists`.

    Raises:
        StudyError: a configuration that completes on every seed is not among them.
    """
    opened = open_study(settings, name)
    study, definition = opened.study, opened.definition
    try:
        confirms = study.user_attrs[CONFIRMS]
        found = elimination.losses(study, definition)
        search_losses = {arm: facts["val_loss"] for arm, facts in confirms["finalists"].items()}
        run = sum(opened.slots.counts().values()) // len(found)
        judged = verdict.judge(found, elimination.seeds_of(definition)[:run], search_losses)
        if judged.best is None:
            why = "; ".join(f"{standing.arm}: {standing.out}" for standing in judged.standings)
            raise StudyError(f"study {name!r}: no configuration is complete on every seed ({why})")
        search = opened.other(confirms["study"]).study
        if not _confirms(study, search):
            raise StudyError(_of_another_search(study))
        winner = {
            "study": name,
            "generation": generation_of(study),
            "arm": judged.best.arm,
            "trial": confirms["finalists"].get(judged.best.arm, {}).get("trial"),
            "ties": list(judged.ties),
            "seeds": list(judged.seeds),
        }
        search.set_user_attr(CONFIRMED, winner)
        return judged, confirms
    finally:
        opened.close()


def arm_of(trial: FrozenTrial) -> str:
    """The name of a finalist: that of its trial in the search."""
    return f"trial {trial.number}"


def refuse_confirmation(search: optuna.Study) -> None:
    """Raises StudyError where the study is a confirmation, and no search that could have one."""
    if CONFIRMS in search.user_attrs:
        name, of = search.study_name, search.user_attrs[CONFIRMS]["study"]
        raise StudyError(f"study {name!r} is a confirmation itself; give the study that it confirms: {of}")


def _confirms(confirmation: optuna.Study, search: optuna.Study) -> bool:
    """It was made from this very search, and not from one that had the name before it."""
    # one made before studies had generations is known by the name alone
    made_from = confirmation.user_attrs[CONFIRMS].get("generation", generation_of(search))
    return bool(made_from == generation_of(search))


def _of_another_search(confirmation: optuna.Study) -> str:
    name, of = confirmation.study_name, confirmation.user_attrs[CONFIRMS]["study"]
    return f"study {name!r} confirms an earlier study {of!r}, which is gone"


def _refuse_other(
    found: optuna.Study,
    searched: OpenedStudy,
    *,
    top: int | None,
    say: Callable[[str], None],
) -> None:
    """Refuse a study that is not the confirmation asked for; say so when the search has gone on since."""
    name, search = found.study_name, searched.study
    way_out = f"give another one a name of its own: --name {name}-2"
    confirms = found.user_attrs.get(CONFIRMS, {})
    if confirms.get("study") != search.study_name:
        raise StudyError(f"study {name!r} is no confirmation of {search.study_name!r}; {way_out}")
    if not _confirms(found, search):
        raise StudyError(f"{_of_another_search(found)}; {way_out}")
    if top is not None and top != confirms["top"]:
        raise StudyError(f"study {name!r} was made with --top {confirms['top']}, given {top}; {way_out}")
    now = [arm_of(trial) for trial, _ in _finalists(searched, confirms["top"], say=say)]
    newer = [arm for arm in now if arm not in confirms["finalists"]]
    if newer:
        say(
            f"study {search.study_name} has found better since, not confirmed here: {', '.join(newer)}; {way_out}"
        )


def _make(
    searched: OpenedStudy,
    name: str,
    top: int,
    *,
    command: str,
    say: Callable[[str], None],
) -> tuple[optuna.Study, StudyDefinition]:
    search, start = searched.study, searched.base_config
    finalists = _finalists(searched, top, say=say)
    entries = [{"arm": arm_of(trial), **_changes(config, start)} for trial, config in finalists]
    tree = {
        "question": f"Which of the best configurations of {search.study_name} is best on fresh seeds, and how much "
        "better than its baseline?",
        "design": {"list": entries, "seeds": _fresh_seeds(searched.definition)},
        "keep_checkpoints": (len(entries) + 1)
        * MAX_SEEDS,  # of all runs: any arm may turn out to be the winner
        **{
            key: value
            for key, value in searched.definition.tree.items()
            if key in ("run", "budget", "metric")
        },
    }
    if "run" in tree:
        tree["base"] = searched.definition.tree["base"]
    snapshot = {
        "name": name,
        "study": tree,
        "base": start.model_dump(mode="json"),
        "overrides": {},
        "scale": None,
        "file": searched.definition.file if searched.definition.own_run else None,
    }
    made = StudyDefinition.from_snapshot(snapshot)
    confirms = {
        "study": search.study_name,
        "generation": generation_of(search),
        "top": top,
        "finalists": {
            arm_of(trial): {"trial": trial.number, "val_loss": trial.value} for trial, _ in finalists
        },
    }
    return create_study(
        searched.storage,
        made,
        searched.facts,
        command=command,
        note=study_note(made, searched.facts, command=command),
        attributes={CONFIRMS: confirms},
    ), made


def _finalists(
    searched: OpenedStudy, top: int, *, say: Callable[[str], None]
) -> list[tuple[FrozenTrial, RunConfig]]:
    """The best complete trials with distinct configurations, seeds aside, other than the baseline's.

    One that was added with a point outside the space cannot be run, and is said to be left out.
    """
    search, definition = searched.study, searched.definition
    seen = [searched.base_config]
    finalists: list[tuple[FrozenTrial, RunConfig]] = []
    for trial in ranked_trials(search):
        if len(finalists) == top:
            break
        try:
            config = configuration_of(search, definition, trial)
        except ConfigError as error:
            say(f"trial {trial.number} of {search.study_name} cannot be run again, and is left out: {error}")
            continue
        config = config.with_seed(definition.base_config.seed)
        if config not in seen:
            seen.append(config)
            finalists.append((trial, config))
    if not finalists:
        raise StudyError(
            f"study {search.study_name!r} has no complete trial beside its baseline to confirm "
            f"({count_states(search)})"
        )
    return finalists


def _changes(config: RunConfig, start: RunConfig) -> Values:
    """What `config` has other than `start`, by dotted key; the seed is not looked at."""
    before = dict(leaves(start.model_dump(mode="json")))
    after = leaves(config.model_dump(mode="json"))
    return {key: value for key, value in after if key != "seed" and not same(value, before[key])}


def _fresh_seeds(definition: StudyDefinition) -> list[int]:
    """The seeds after the largest one that a trial of the search has, so that every call finds the same ones.

    After the largest that there is come the smallest.
    """
    used = {definition.base_config.seed, *(cell["seed"] for cell in definition.cells if "seed" in cell)}
    last = max(used)
    after = (seed % (LARGEST_SEED + 1) for seed in itertools.count(last + 1))
    return list(itertools.islice((seed for seed in after if seed not in used), MAX_SEEDS))


def _command(study: str, top: int | None, seeds: int, name: str | None) -> str:
    words = ["confirm", study, "--seeds", str(seeds)]
    words += ["--top", str(top)] if top is not None else []
    words += ["--name", name] if name is not None else []
    return verb(*words)
