"""Making a study: corpus, budget, tables, slots. By one process, before any worker opens them."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import optuna

from model.config.train_config import TrainConfig
from model.config.yaml_tree import written
from model.data import corpus as corpora
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import ConfigError, CorpusError
from service.dashboard.notes import study_note
from service.machine import places
from service.machine.windows import refuse_large_windows
from service.settings import Settings
from service.storage.artifact_stores import Store, open_store
from service.storage.budget import BUDGET, nothing_granted
from service.storage.database import creation_lock, open_storage
from service.storage.earlier_trials import refuse_prior, with_recorded
from service.storage.opened_study import OpenedStudy
from service.storage.optuna_tables import bury
from service.storage.seed_noise import noise_between_seeds
from service.storage.studies import (
    FALLBACK,
    StudyError,
    create_study,
    find_study,
    refuse_changed,
)
from service.study import definition as study_config
from service.study import strategy
from service.study.definition import StudyDefinition
from service.study.device_proof import prove_device
from service.study.file import checked_name
from service.study.prices import Prices
from service.study.spend import refuse_number, shown_cost, unit_of
from service.text.commands import verb


def create(
    settings: Settings,
    study: str,
    *,
    name: str | None = None,
    overrides: Mapping[str, Any],
    scale: str | None = None,
    more: int | None = None,
    total: int | None = None,
    workers_here: bool = False,
    as_it_is: bool = False,
    say: Callable[[str], None],
) -> tuple[str, StudyDefinition]:
    """See that the study is there and has slots for the trials asked for.

    Args:
        settings: where storage, artifacts and cache are.
        study: name of a folder under `studies/`, or a path to a study file.
        name: what to call it in the storage; the folder's name, with the scale's behind it, unless given.
        overrides: dotted keys of the base file with new values. A study that is met again keeps those it was
            made with unless some are given.
        scale: one of the sizes that the study file has; likewise.
        more: trials to finish beyond those finished, or
        total: trials to finish in all; the whole design, or the study file's number, where neither is given.
        workers_here: its workers will be this machine's, so that what its device cannot train is refused now.
        as_it_is: leave a study that is there the trials it has, where neither is given.
        say: takes a line for the user.

    Returns:
        Its name in the storage and its definition.

    Raises:
        UserError: something given cannot be used, or the study was made differently.
    """
    if name is not None:
        checked_name(name)
    given = study_config.load(study, overrides=overrides, scale=scale)
    given = dataclasses.replace(given, name=name or given.name)
    refuse_number(given.spend, more or total)
    if workers_here or settings.device != "auto":
        prove_device(given, places.device_type(settings))
    with creation_lock(settings), contextlib.ExitStack() as stack:
        storage = open_storage(settings, create=True)
        stack.callback(storage.engine.dispose)
        met = find_study(storage, given.name)
        if met is None:
            # what cannot be written is refused before minutes are spent on a corpus
            store = open_store(settings.artifacts, writable=True)
            given = with_recorded(given)
            refuse_prior(storage, given, settings)
            if given.stop is not None and given.stop.noise is not None:
                sd, runs = noise_between_seeds(storage, given.stop.noise, settings)
                say(
                    f"stops by itself below {sd:.2g}, the noise between seeds: {given.stop.noise}, {runs} runs"
                )
            corpus = None if given.own_run else _read_corpus(settings, given, say=say)
            if corpus is not None and _fell_back(given, corpus):
                name = checked_name(f"{given.name}{FALLBACK}")
                say(f"this makes study {name}: {given.name} stays free for the corpus of the hub")
                given = dataclasses.replace(given, name=name)
                met = find_study(storage, name)
        if met is None:
            made_by = command(study, name, more or total, overrides, scale)
            found = make_study(settings, storage, store, given, corpus, command=made_by, say=say)
        else:
            found, stored = met
            if (stored.overrides and not overrides) or (stored.scale and not scale):
                given = study_config.load(
                    study, overrides=overrides or stored.overrides, scale=scale or stored.scale
                )
                given = dataclasses.replace(given, name=stored.name)
            if given.strategy_open:
                given = dataclasses.replace(given, sampler=stored.sampler, pruner=stored.pruner)
            refuse_changed(stored, given)
        opened = OpenedStudy(settings, storage, found, given)
        if met is not None and given.own_run is not None:
            _say_changed_code(opened, say)
        elif met is not None:
            _refuse_changed_file(opened)
        bury(storage.engine, opened.key)
        if more is not None:
            opened.more(more)
        elif not (as_it_is and met is not None and total is None):
            opened.total(total)
        if given.spend is not None:
            say(f"budget of the study: {opened.shown_budget()}")
    return given.name, given


def _fell_back(definition: StudyDefinition, corpus: corpora.Corpus) -> bool:
    """Whether a study would take the name of the one that was meant, which a connection makes later."""
    meant = definition.gpt_config("a corpus").data.source == "auto"
    return meant and corpus.resolved_source == "docstrings" and not definition.name.endswith(FALLBACK)


def _read_corpus(
    settings: Settings, definition: StudyDefinition, *, say: Callable[[str], None]
) -> corpora.Corpus:
    config = definition.gpt_config("a corpus")
    data = config.data
    say(f"study {definition.name}: reading the corpus ({data.source})")
    pretrained = config.tokenizer.pretrained
    corpus = corpora.build(data, cache=settings.cache, tokenizer=pretrained, say=say)
    for note in corpus.notes:
        say(note)
    say(
        f"corpus: {corpus.source}; {corpus.duplicates:,} duplicates dropped; {len(corpus.train):,} train, "
        f"{len(corpus.validation):,} validation, {len(corpus.held_out):,} held-out documents"
    )
    return corpus


def make_study(
    settings: Settings,
    storage: Any,
    store: Store,
    definition: StudyDefinition,
    corpus: corpora.Corpus | None,
    *,
    command: str,
    say: Callable[[str], None],
) -> optuna.Study:
    """The study of `definition` over `corpus`, with the corpus in the store; made whole or not at all.

    Training code of the user's has its own data, and no corpus here.

    Raises:
        UserError: the corpus is too small for it or cannot be stored, or another process has made one of this name.
    """
    for note in strategy.notes(definition.sampler, definition.pruner, is_open=definition.strategy_open):
        say(note)
    facts = (
        _own_facts(definition) if corpus is None else _stored(corpus, settings, store, definition, say=say)
    )
    _refuse_too_little(definition, facts["budget_tokens"])
    return create_study(
        storage,
        definition,
        facts,
        command=command,
        note=study_note(definition, facts, command=command),
        attributes={BUDGET: nothing_granted(unit_of(definition.spend))} if definition.pauses else None,
    )


def _refuse_too_little(definition: StudyDefinition, budget_tokens: int) -> None:
    """Raise ConfigError where a study may not even spend what its baseline takes to its first rung."""
    spend, unit = definition.spend, unit_of(definition.spend)
    if spend is None or unit == "seconds" or not definition.baseline:
        return
    price = Prices(definition.base, definition.space).of_base if unit == "flops" else 1
    least = definition.base_config.with_tokens(budget_tokens).rungs[0] * price
    if spend.amount < least:
        given, needed = (
            shown_cost(each, unit, budget=definition.words.budget) for each in (spend.amount, least)
        )
        raise ConfigError(
            f"spend: given {given}, must be {needed} at least: what the baseline's first rung takes"
        )


def _own_facts(definition: StudyDefinition) -> dict[str, Any]:
    own = definition.own_run
    assert own is not None, "what has no corpus is the user's"
    return {"fingerprint": own.fingerprint, "source": own.run, "budget_tokens": own.budget.amount}


def _stored(
    corpus: corpora.Corpus,
    settings: Settings,
    store: Store,
    definition: StudyDefinition,
    *,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Put the corpus into the store; what the study says of it."""
    config = definition.gpt_config("a corpus")
    tokenized = TokenizedCorpus.prepare(corpus, config.tokenizer, cache=settings.cache)
    train_tokens = len(tokenized.split("train").tokens)
    budget = config.with_token_budget(train_tokens).budget_tokens
    say(f"tokens: {train_tokens:,} in the train split; budget of a trial {budget:,}")
    refuse_large_windows(definition, corpus, settings.cache)
    path = settings.cache / f"corpus-{corpus.fingerprint}.json.gz"
    corpora.write(corpus, path)
    # the artifact goes in before the study says that it is whole, so that a worker never misses it
    identifier = f"corpus-{corpus.fingerprint}"
    try:
        with path.open("rb") as file:
            store.write(identifier, file)
    except OSError as error:
        raise CorpusError(f"{store}: the corpus cannot be stored: {error.strerror or error}") from None
    return {
        "fingerprint": corpus.fingerprint,
        "source": corpus.source,
        "artifact": identifier,
        "documents": [len(corpus.train), len(corpus.validation), len(corpus.held_out)],
        "duplicates_dropped": corpus.duplicates,
        "train_tokens": train_tokens,
        "budget_tokens": budget,
    }


def command(
    study: str, name: str | None, trials: int | None, overrides: Mapping[str, Any], scale: str | None
) -> str:
    """The script's call that makes the study, or resumes it, and runs `trials` of it."""
    words = [*([str(trials)] if trials else []), "--study", study]
    words += ["--scale", scale] if scale else []
    words += ["--name", name] if name else []
    words += ["--docker"] if "HPTUNE_CONTAINER" in os.environ else []
    words += [word for key, value in overrides.items() for word in ("--set", f"{key}={written(value)}")]
    return verb("run", *words)


def _refuse_changed_file(opened: OpenedStudy) -> None:
    """A corpus file that now holds other titles must not be taken for the study's."""
    name, config = opened.name, opened.definition.base_config
    assert isinstance(config, TrainConfig)
    data = config.data
    if data.source != "file" or not data.path or not os.path.exists(data.path):
        return  # the study brings its corpus along
    now = corpora.build(data, cache=opened.settings.cache)
    if config.tokenizer.pretrained is not None:  # the study brings that along, too
        now = dataclasses.replace(now, tokenizer=opened.corpus.tokenizer)
    if now.fingerprint != opened.facts["fingerprint"]:
        raise StudyError(
            f"study {name!r} was made with another corpus: {data.path} has changed since; "
            f"restore it, or give the study a name of its own: --name {name}-2"
        )


def _say_changed_code(opened: OpenedStudy, say: Callable[[str], None]) -> None:
    own = opened.definition.own_run
    if own is not None and own.fingerprint != opened.facts["fingerprint"]:
        say(
            f"the file of {own.run} has changed since study {opened.name} was made: where that changes what a trial "
            f"comes to, give the study a name of its own: --name {opened.name}-2"
        )
