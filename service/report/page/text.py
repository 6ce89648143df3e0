"""A report's content as text: Markdown to read, JSON to commit, CSV to compute with."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.report.page.content import Content
from service.report.page.html_page import Section
from service.report.page.tables import TUNED_ROWS
from service.report.record.metrics import FIGURES
from service.report.record.study_record import Run
from service.text.markdown import escaped, fenced
from service.text.tables import Table

_NOT_IN_RESULT = ("runs", "trials", "definitions")
"""Tables whose content stands in the result under `arms`, or in this project's code."""
DIGITS = 6
"""Significant ones, of every number in `result`."""


def markdown(content: Content, opening: Sequence[Section] = ()) -> str:
    """The whole report as Markdown.

    Args:
        content: of the report.
        opening: sections of the page that stand before all facts and tables: their words, without figures.
    """
    record = content.record
    parts = [f"# {_line(record.name)}\n\n{_line(record.question)}\n"]
    if content.budget:
        parts.append(f"Budget: {_line(content.budget)}.\n")
    parts += [_section_markdown(section) for section in opening]
    parts.append(
        "| | |\n|---|---|\n" + "".join(f"| {name} | {_line(value)} |\n" for name, value in content.facts)
    )
    if content.warnings:
        parts.append("".join(f"- {_line(warning)}\n" for warning in content.warnings))
    parts += [table_markdown(table) for table in content.tables]
    return "\n".join(parts)


def _section_markdown(section: Section) -> str:
    parts = [f"## {_line(section.title)}\n"]
    parts += [f"{_with_code(text)}\n" for text in section.texts]
    if section.points:
        parts.append("".join(f"- {_with_code(point)}\n" for point in section.points))
    if section.commands:
        parts.append(fenced("\n".join(section.commands)))
    parts += [f"{_with_code(note)}\n" for note in section.notes]
    return "\n".join(parts)


def _with_code(text: str) -> str:
    """`text` as Markdown; what stands between backticks is code there, too."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(f"`{part}`" if place % 2 else _within(part) for place, part in enumerate(parts))


def _within(part: str) -> str:
    """As `_line`, with the space that stands before and after it."""
    return " " * part[:1].isspace() + _line(part) + " " * (part[-1:].isspace() and bool(part.strip()))


def table_markdown(table: Table) -> str:
    """A table under its title, with its notes."""
    lines = [table.headings, tuple("---" for _ in table.headings), *table.rows] if table.rows else []
    rows = "".join(f"| {' | '.join(map(_line, line))} |\n" for line in lines)
    notes = "".join(f"\n{_line(note)}\n" for note in table.notes)
    return f"## {_line(table.title)}\n\n{rows}{notes}"


def result(content: Content) -> str:
    """The report as strict JSON with sorted keys, small enough to be committed: no measured step, few digits.

    A number that is not finite is the text `nan` or `inf`. Of a tuned study the best configurations alone have their
    metrics and curves; every trial has the values that were chosen for it.
    """
    record = content.record
    # of a search by the trial alone, whatever it is called for people
    names = {arm.name: f"trial {arm.runs[0].trial}" if record.tuned else arm.name for arm in record.arms}
    whole = {arm.name for arm in (record.best_arms[:TUNED_ROWS] if record.tuned else record.arms)}
    found = {
        "study": record.name,
        "question": record.question,
        "facts": dict(content.facts),
        **({"budget": content.budget} if content.budget else {}),
        "warnings": content.warnings,
        "baseline": names.get(record.baseline or "", record.baseline),
        "claims": [vars(claim) for claim in content.claims],
        "tables": [vars(table) for table in content.tables if table.id not in _NOT_IN_RESULT],
        "arms": {
            names[arm.name]: [_run(run, whole=arm.name in whole) for run in arm.runs] for arm in record.arms
        },
    }
    return json.dumps(_plain(found), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def csv_files(content: Content) -> dict[str, str]:
    """Every table, and the numbers behind them, by file name.

    `metrics.csv` has a row a run with its values, `curves.csv` a row a rung, `diagnostics.csv` a row a measured step
    or evaluation.
    """
    runs = content.record.runs
    files = {f"table-{table.id}.csv": _csv(table.headings, table.rows) for table in content.tables}
    files["metrics.csv"] = _records([{**_identity(run), **run.values, **run.metrics} for run in runs])
    files["curves.csv"] = _records([{**_identity(run), **row} for run in runs for row in run.curve])
    measured = [{**_identity(run), **row} for run in runs for row in (*run.steps, *run.evaluations)]
    if measured:
        files["diagnostics.csv"] = _records(measured)
    return files


def _run(run: Run, *, whole: bool) -> dict[str, Any]:
    found = {key: value for key, value in _identity(run).items() if key != "arm"} | {"ended": run.ended}
    found["values"] = dict(run.values)
    if whole:
        measured = ((name, run.metrics.get(name)) for name in FIGURES)
        found["metrics"] = {name: value for name, value in measured if value is not None}
        keys = [
            key
            for key in ("rung_tokens", "step", "train_seconds", "val_loss")
            if all(key in row for row in run.curve)
        ]
        found["curve"] = {key: [row[key] for row in run.curve] for key in keys}
    return found


def _identity(run: Run) -> dict[str, Any]:
    return {"trial": run.trial, "arm": run.arm, "seed": run.seed, "state": run.state}


def _plain(value: Any) -> Any:
    """`value` as strict JSON has it, with few digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _records(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as rows, under every key that one of them has; lists as JSON."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    cells = ([record.get(key) for key in keys] for record in records)
    return _csv(keys, ([json.dumps(c) if isinstance(c, list | dict) else c for c in row] for row in cells))


def _csv(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *rows])
    return text.getvalue()


def _line(text: str) -> str:
    return escaped(text, readable=True)
