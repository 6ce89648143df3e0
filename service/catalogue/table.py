"""The trials of a study as rows: one dictionary a trial, the same keys in every one."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from model.data.files import write_atomically
from model.errors import UserError
from service.storage.ownership import generation_of, is_own
from service.study.definition import StudyDefinition
from service.study.search_space import leaves

_NO_METRICS = frozenset({"slot", "goes_on_with", "arm", "ended"})
"""Attributes of a trial that are columns of their own, or the service's own notes."""
FORMATS = ("csv", "parquet", "json")


def rows(study: optuna.Study, definition: StudyDefinition, *, whole: bool = False) -> list[dict[str, Any]]:
    """The trials by number, finished or not.

    Args:
        study: as loaded.
        definition: of the study.
        whole: with every key of the configuration, in place of those that the study varies.

    Returns:
        For each trial `trial`, `state`, `val_loss` (None unless complete), `arm`, `seed`, `ended`, `started` and
        `finished` (ISO 8601, in the time zone of whoever ran it), `added` (from elsewhere), the hyperparameters by
        dotted key, and every figure that it has recorded.
    """
    generation = generation_of(study)
    found = [
        (
            _facts(t, definition, added=not is_own(t, generation)),
            _parameters(t, definition, whole),
            _metrics(t),
        )
        for t in study.get_trials(deepcopy=False)
    ]
    parts = [list(dict.fromkeys(key for row in found for key in row[part])) for part in range(3)]
    if not whole:  # in the space's order, and there where no trial has it yet
        parts[1] = [
            *definition.space.parameters,
            *(k for k in parts[1] if k not in definition.space.parameters),
        ]
    keys = list(dict.fromkeys(key for part in parts for key in part))
    return [{key: next((part[key] for part in row if key in part), None) for key in keys} for row in found]


def _facts(trial: FrozenTrial, definition: StudyDefinition, *, added: bool) -> dict[str, Any]:
    config = trial.user_attrs.get("config")
    base = definition.base_config.seed
    seed = config.get("seed", base) if isinstance(config, Mapping) else trial.params.get("seed", base)
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "val_loss": trial.value if trial.values else None,
        "arm": trial.user_attrs.get("arm"),
        "seed": seed,
        "ended": trial.user_attrs.get("ended"),
        "started": trial.datetime_start and trial.datetime_start.isoformat(timespec="seconds"),
        "finished": trial.datetime_complete and trial.datetime_complete.isoformat(timespec="seconds"),
        "added": added,
    }


def _parameters(trial: FrozenTrial, definition: StudyDefinition, whole: bool) -> dict[str, Any]:
    config = trial.user_attrs.get("config")
    if whole and isinstance(config, Mapping):
        return {key: value for key, value in leaves(config) if key != "seed"}
    known = {key: value for key, value in trial.params.items() if key in definition.space.parameters}
    try:
        decoded = definition.space.decode(known)
    except ValueError:  # one that was added, with values that this study does not store
        decoded = known
    return {**trial.params, **decoded}


def _metrics(trial: FrozenTrial) -> dict[str, Any]:
    return {
        key: value
        for key, value in trial.user_attrs.items()
        if isinstance(value, int | float) and key not in _NO_METRICS
    }


def as_text(found: Sequence[Mapping[str, Any]], form: str) -> str:
    """Rows as `csv` or `json`; lists in a CSV as JSON, what is missing as nothing."""
    if form == "json":
        return json.dumps(list(found), indent=1, ensure_ascii=False) + "\n"
    text = io.StringIO()
    keys = list(found[0]) if found else ["trial", "state", "val_loss"]
    table = csv.DictWriter(text, keys, lineterminator="\n")
    table.writeheader()
    table.writerows({key: _cell(value) for key, value in row.items()} for row in found)
    return text.getvalue()


def write(found: Sequence[Mapping[str, Any]], form: str, path: Path) -> None:
    """Rows as a file of one of `FORMATS`.

    Raises:
        UserError: it cannot be written, or pyarrow is not installed.
    """
    content = as_parquet(found) if form == "parquet" else as_text(found, form).encode()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror or error}; --out names another file"
        ) from None


def as_parquet(found: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as parquet; a column with values of several kinds as text. Raises UserError: there is no pyarrow."""
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(
            "parquet needs pyarrow, which is not installed here; --format csv or json do not"
        ) from None
    columns: dict[str, Any] = {}
    for key in found[0] if found else ("trial",):
        values = [row[key] for row in found]
        try:
            columns[key] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            columns[key] = pa.array([None if value is None else str(_cell(value)) for value in values])
        if pa.types.is_null(columns[key].type):  # nothing is known of it yet
            columns[key] = columns[key].cast(pa.float64())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict | bool) else value
