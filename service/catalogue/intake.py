"""Points and results from elsewhere: known points to be run, trials of a plain Optuna study, rows of a CSV."""

import contextlib
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState, create_trial

from model.config.yaml_tree import parse_value
from model.errors import ConfigError, UserError
from service import addresses
from service.settings import Settings
from service.storage import database
from service.storage.opened_study import open_study
from service.storage.optuna_private import id_of
from service.storage.optuna_trials import insert_trials
from service.storage.studies import StudyError
from service.study.definition import StudyDefinition

IMPORTED = "imported"
"""Trial attribute: where a result comes from, and its number there."""
_LOSSES = ("val_loss", "value", "value_val_loss [nats/char]")
"""Columns that hold the loss: as `export` writes them, and as Optuna's `trials_dataframe` does."""


@dataclass(frozen=True)
class Result:
    """A finished run from elsewhere."""

    place: str
    """For messages: `file.csv:3`, `trial 12`."""
    number: int
    """In its source."""
    values: Mapping[str, Any]
    """By the source's names."""
    loss: float


@dataclass(frozen=True)
class Taken:
    """What an import has done."""

    added: int
    known: int
    """Were there from an earlier import."""
    refused: tuple[str, ...]
    """One line each: why not."""


def enqueue(settings: Settings, name: str, values: Mapping[str, Any]) -> tuple[int, int]:
    """Put a point in front of a study's search; the number of its trial, and the slots that are free for it.

    What the point leaves out is sampled.

    Raises:
        StudyError: there is no such study, or it is a design, which has no other points than its own.
        ConfigError: the point is outside the space; the message has the key, the value and the range.
    """
    with contextlib.closing(open_study(settings, name)) as opened:
        study, definition = opened.study, opened.definition
        _refuse_design(name, definition)
        if not values:
            raise UserError(
                f"KEY=VALUE: none given, allowed: keys of the space: {', '.join(definition.space.parameters)}"
            )
        study.enqueue_trial(definition.space.encode(definition.space.point(values)))
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return waiting[-1].number, opened.slots.counts()["open"]


def take(
    settings: Settings,
    name: str,
    results: Sequence[Result],
    *,
    source: str,
    names: Mapping[str, str | None],
    fitting: bool,
) -> Taken:
    """Add results to a study; its search learns from them. One that an earlier import brought is left out.

    Args:
        settings: where the study is.
        name: of the study.
        results: finished runs.
        source: where they come from; together with their numbers it tells them from others.
        names: keys of the space by the source's names; None leaves one out.
        fitting: take those that fit; otherwise one that does not fit refuses all.

    Raises:
        StudyError: there is no such study, or it is a design.
        ConfigError: a result is outside the space, or lacks a parameter.
    """
    with contextlib.closing(open_study(settings, name)) as opened:
        study, definition = opened.study, opened.definition
        _refuse_design(name, definition)
        there = {
            (found.get("from"), found.get("number"))
            for trial in study.get_trials(deepcopy=False)
            if isinstance(found := trial.user_attrs.get(IMPORTED), Mapping)
        }
        new = [result for result in results if (source, result.number) not in there]
        trials: list[FrozenTrial] = []
        refused = []
        for result in new:
            try:
                trials.append(_trial(definition, result, source, names))
            except ConfigError as error:
                refused.append(f"{result.place}: {error}")
        if refused and not fitting:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise ConfigError(f"{refused[0]}{more}; --fitting takes the {len(trials)} that fit")
        insert_trials(opened.storage.engine, id_of(study), trials)
        return Taken(len(trials), len(results) - len(new), tuple(refused))


def _refuse_design(name: str, definition: StudyDefinition) -> None:
    if definition.cells:
        raise StudyError(
            f"study {name!r} runs {len(definition.cells)} configurations that its file lists, and no other; "
            "add it there"
        )


def _trial(
    definition: StudyDefinition, result: Result, source: str, names: Mapping[str, str | None]
) -> FrozenTrial:
    space = definition.space
    named = {names.get(key, key): value for key, value in result.values.items()}
    try:
        values = space.encode(space.point({k: v for k, v in named.items() if k is not None}, whole=True))
    except ConfigError as error:
        unnamed = [key for key in result.values if key not in names and key not in space.parameters]
        hint = (
            f"; --map {unnamed[0]}=KEY gives it the space's name, --map {unnamed[0]}= leaves it out"
            if unnamed
            else ""
        )
        raise ConfigError(f"{error}{hint}") from None
    if not math.isfinite(result.loss):
        raise ConfigError(f"loss: must be finite, given {result.loss}")
    return create_trial(
        value=result.loss,
        params=values,
        distributions={key: space.distributions[key] for key in values},
        user_attrs={IMPORTED: {"from": source, "number": result.number}, "ended": f"imported from {source}"},
    )


def results_of_optuna(settings: Settings, name: str, *, url: str | None) -> tuple[list[Result], int]:
    """The complete trials of a study as Optuna has it, and how many others it has.

    Args:
        settings: of the storage to look in, unless
        url: another one's is given.
        name: of the study there.

    Raises:
        UserError: there is no such study or storage, it maximises, or it has several objectives.
    """
    shown = settings.storage_shown if url is None else addresses.shown(addresses.parse(url))
    with database.opened(settings) if url is None else _foreign(url) as storage:
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            there = ", ".join(sorted(each.study_name for each in storage.get_all_studies())) or "none"
            raise StudyError(f"study {name!r} is not in {shown}; there are: {there}") from None
        if [direction.name for direction in study.directions] != ["MINIMIZE"]:
            kinds = ", ".join(direction.name.lower() for direction in study.directions)
            raise StudyError(f"study {name!r}: must minimise one loss, given: {kinds}")
        trials = study.get_trials(deepcopy=False)
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        results = [
            Result(f"trial {trial.number} of {name}", trial.number, trial.params, trial.values[0])
            for trial in complete
        ]
        return results, len(trials) - len(complete)


@contextlib.contextmanager
def _foreign(url: str) -> Iterator[optuna.storages.RDBStorage]:
    """Somebody else's storage, which is only read."""
    parsed = addresses.parse(url)
    shown = addresses.shown(parsed)
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite and not (parsed.database and Path(parsed.database).is_file()):
        raise UserError(f"{shown}: there is no such storage")
    try:
        storage = optuna.storages.RDBStorage(
            parsed.render_as_string(hide_password=False), skip_table_creation=True
        )
    except (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(f"{shown}: the storage cannot be opened: {database.told(error, parsed)}") from None
    except ImportError as error:
        raise UserError(f"{shown}: no driver for this database: {error.__cause__ or error}") from None
    except RuntimeError as error:
        raise UserError(f"{shown}: the storage is of another schema: {str(error).splitlines()[0]}") from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def results_of_csv(
    path: Path, definition: StudyDefinition, *, names: Mapping[str, str | None]
) -> tuple[list[Result], int]:
    """The rows of a CSV with a loss and parameters of the space, and how many others it has.

    Parameters stand under their keys, as `export` writes them, under `params_KEY`, as Optuna does, or under a name that
    `names` has. Other columns are left out; so are rows whose `state` is another than complete.

    Raises:
        UserError: it is no such file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file, strict=True)
            heading = next(table, [])
            rows = list(_rows(path, heading, table))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid CSV in UTF-8: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    loss = next((column for column in _LOSSES if column in heading), None)
    if loss is None:
        raise UserError(f"{path}: has no column val_loss or value; columns: {', '.join(heading) or 'none'}")
    keys = {column: _key(column, definition, names) for column in heading}
    complete = [row for row in rows if row[1].get("state", "complete").lower() == "complete"]
    results = []
    for line, row in complete:
        values = {
            key: _cell(path, line, row[column]) for column, key in keys.items() if key and row[column] != ""
        }
        number = row.get("trial") or row.get("number") or ""
        results.append(
            Result(
                f"{path}:{line}",
                int(number) if number.isdecimal() else line,
                values,
                _loss(path, line, loss, row),
            )
        )
    return results, len(rows) - len(complete)


def _rows(path: Path, heading: list[str], table: Iterator[list[str]]) -> Iterator[tuple[int, dict[str, str]]]:
    for line, row in enumerate(table, start=2):
        if len(row) != len(heading):
            if not row:
                continue
            raise UserError(f"{path}:{line}: has {len(row)} cells, its heading has {len(heading)}")
        yield line, dict(zip(heading, row, strict=True))


def _key(column: str, definition: StudyDefinition, names: Mapping[str, str | None]) -> str | None:
    """The key that a column holds; None of one that holds none."""
    if column in names:
        return names[column]
    plain = column.removeprefix("params_")
    return plain if plain in definition.space.parameters else None


def _cell(path: Path, line: int, text: str) -> Any:
    try:
        return parse_value(text)
    except ConfigError as error:
        raise UserError(f"{path}:{line}: {error}") from None


def _loss(path: Path, line: int, column: str, row: Mapping[str, str]) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise UserError(f"{path}:{line}: {column}: must be a number, given {row[column]!r}") from None


def parse_names(pairs: Sequence[str]) -> dict[str, str | None]:
    """`NAME=KEY` pairs of a command line; without a key the name is left out. Raises UserError."""
    names: dict[str, str | None] = {}
    for pair in pairs:
        name, separator, key = pair.partition("=")
        if not separator or not name:
            raise UserError(
                f"--map {pair}: must be NAME=KEY, such as --map lr=optimizer.lr, or NAME= to leave it out"
            )
        names[name] = key or None
    return names
