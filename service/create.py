"""Making a study: corpus, budget, tables, slots. By one process, before any worker opens them."""

import contextlib
import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any, cast

import optuna

from model import corpus as corpora
from model.config import DataConfig
from model.errors import CorpusError
from model.tokenizer import TokenizedCorpus
from service import study_config
from service.settings import Settings
from service.slots import Slots
from service.storage import (
    DEFINITION,
    StudyError,
    corpus_facts,
    create_study,
    creation_lock,
    find_study,
    open_storage,
    refuse_changed,
)
from service.stores import open_store
from service.study_config import StudyDefinition


def create(
    settings: Settings,
    study: str,
    *,
    name: str | None = None,
    overrides: Mapping[str, Any],
    more: int | None = None,
    total: int | None = None,
    say: Callable[[str], None],
) -> tuple[str, StudyDefinition]:
    """See that the study is there and has slots for the trials asked for.

    Args:
        settings: where storage, artifacts and cache are.
        study: name of a folder under `studies/`, or a path to a study file.
        name: what to call it in the storage; the folder's name unless given.
        overrides: dotted keys of the base file with new values. A study that is met again keeps those it was
            made with unless some are given.
        more: trials to finish beyond those finished, or
        total: trials to finish in all.
        say: takes a line for the user.

    Returns:
        Its name in the storage and its definition.

    Raises:
        UserError: something given cannot be used, or the study was made differently.
    """
    if name is not None:
        study_config.checked_name(name)
    given = study_config.load(study, overrides=overrides)
    given = dataclasses.replace(given, name=name or given.name)
    with creation_lock(settings), contextlib.ExitStack() as stack:
        storage = open_storage(settings, create=True)
        stack.callback(storage.engine.dispose)
        found = find_study(storage, given.name)
        if found is not None and DEFINITION not in found.user_attrs:
            optuna.delete_study(study_name=given.name, storage=storage)  # its making was cut off
            found = None
        if found is None:
            command = _command(study, name, more or total or given.trials, overrides)
            found = _make(settings, storage, given, command=command, say=say)
        else:
            stored = StudyDefinition.from_snapshot(found.user_attrs[DEFINITION])
            if not overrides and stored.overrides:
                given = study_config.load(study, overrides=stored.overrides)
                given = dataclasses.replace(given, name=stored.name)
            refuse_changed(stored, given)
            _refuse_changed_file(settings, found, stored.base_config.data)
        slots = Slots(storage.engine, found._study_id, owner="create", lease_seconds=settings.lease_seconds)
        if more is not None:
            slots.more(more, limit=len(given.cells) or None)
        else:
            cells = len(given.cells)
            slots.total(min(total or cells, cells) if cells else total or given.trials)
    return given.name, given


def _make(
    settings: Settings,
    storage: Any,
    definition: StudyDefinition,
    *,
    command: str,
    say: Callable[[str], None],
) -> optuna.Study:
    store = open_store(settings.artifacts, writable=True)
    data = definition.base_config.data
    say(f"study {definition.name}: reading the corpus ({data.source})")
    corpus = corpora.build(data, cache=settings.cache)
    for note in corpus.notes:
        say(note)
    say(
        f"corpus: {corpus.source}; {corpus.duplicates:,} duplicates dropped; {len(corpus.train):,} train, "
        f"{len(corpus.validation):,} validation, {len(corpus.held_out):,} held-out documents"
    )
    vocab_size = definition.base_config.tokenizer.vocab_size
    tokenized = TokenizedCorpus.prepare(corpus, vocab_size=vocab_size, cache=settings.cache)
    train_tokens = len(tokenized.split("train").tokens)
    budget = definition.base_config.with_token_budget(train_tokens).budget_tokens
    say(f"tokens: {train_tokens:,} in the train split; budget of a trial {budget:,}")
    _refuse_large_windows(definition, len(tokenized.split("validation").tokens))
    path = settings.cache / f"corpus-{corpus.fingerprint}.json.gz"
    corpora.write(corpus, path)
    # the artifact goes in before the study says that it is whole, so that a worker never misses it
    identifier = f"corpus-{corpus.fingerprint}"
    try:
        with path.open("rb") as file:
            store.write(identifier, file)
    except OSError as error:
        raise CorpusError(f"{store}: the corpus cannot be stored: {error.strerror or error}") from None
    facts = {
        "fingerprint": corpus.fingerprint,
        "source": corpus.source,
        "artifact": identifier,
        "documents": [len(corpus.train), len(corpus.validation), len(corpus.held_out)],
        "duplicates_dropped": corpus.duplicates,
        "train_tokens": train_tokens,
        "budget_tokens": budget,
    }
    return create_study(storage, definition, facts, command=command)


def _command(study: str, name: str | None, trials: int, overrides: Mapping[str, Any]) -> str:
    """The script's call that makes and runs the study."""
    words = ["./hptune.sh", str(trials), "--study", study]
    words += ["--name", name] if name else []
    for key, value in overrides.items():
        words += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    return shlex.join(words)


def _refuse_large_windows(definition: StudyDefinition, validation_tokens: int) -> None:
    """The seeds' metric needs one window of block × batch + 1 tokens of the validation split in every trial."""

    def largest(key: str, base: int) -> int:
        parameter = definition.space.parameters.get(key)
        values = [cell[key] for cell in definition.cells if key in cell]
        return cast(int, max([*(parameter.corners() if parameter else ()), *values, base]))

    block = largest("model.block_size", definition.base_config.model.block_size)
    batch = largest("training.batch_size", definition.base_config.training.batch_size)
    if block * batch + 1 > validation_tokens:
        raise CorpusError(
            f"study {definition.name!r}: the validation split has {validation_tokens:,} tokens, one window of "
            f"model.block_size {block} × training.batch_size {batch} + 1 needs {block * batch + 1:,}; "
            "take a larger corpus or smaller values"
        )


def _refuse_changed_file(settings: Settings, study: optuna.Study, data: DataConfig) -> None:
    """A corpus file that now holds other titles must not be taken for the study's."""
    if data.source != "file" or not data.path or not os.path.exists(data.path):
        return  # the study brings its corpus along
    now = corpora.build(data, cache=settings.cache).fingerprint
    if now != corpus_facts(study)["fingerprint"]:
        raise StudyError(
            f"study {study.study_name!r} was made with another corpus: {data.path} has changed since; "
            f"restore it, or give the study a name of its own: --name {study.study_name}-2"
        )
