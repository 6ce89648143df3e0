"""A study's report as files: one page, Markdown, JSON, CSV, and every figure as PNG and SVG."""

import contextlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import optuna

from model.errors import CorpusError, UserError
from service.report.figures import overview, static
from service.report.page import content as contents
from service.report.page import html_page, search, sections, text
from service.report.page.content import Content
from service.report.page.html_page import Section
from service.report.published import document as published
from service.report.record import noise, study_record
from service.settings import HOME
from service.storage.opened_study import OpenedStudy
from service.storage.studies import COMMAND
from service.study.definition import StudyDefinition
from service.study.file import found_in

FIGURES = "figures"
"""Folder of the figures, beside the page."""


_OPENING = ("answer", "next")
"""Sections that open the Markdown, too."""


class ReportError(UserError):
    """There is nothing to report, or no place to write it to."""


@dataclass(frozen=True)
class Written:
    """A report that has been written."""

    content: Content
    paths: tuple[Path, ...]
    """The page first."""


def write(
    opened: OpenedStudy,
    *,
    folder: Path,
    result: Path | None = None,
) -> Written:
    """Write the report of a study as it stands now.

    Args:
        opened: the study.
        folder: for all files.
        result: where to write the JSON a second time, to be committed.

    Raises:
        ReportError: no trial is complete, the artifact store cannot be read, or a file cannot be written.
        ConfigError: the study's `published.yaml` has to be corrected.
    """
    study, store = opened.study, opened.store
    document = published_file(study, opened.definition)
    quoted = published.load(document) if document else None
    try:
        found = study_record.read(
            study, opened.definition, store, baseline=quoted.baseline if quoted else None
        )
    except OSError as error:
        raise ReportError(f"{store}: artifacts cannot be read: {error.strerror or error}") from None
    if not found.best_arms:
        counts = found.shown_states or "none has begun"
        raise ReportError(f"study {study.study_name!r} has no complete trial to report ({counts})")
    content = contents.build(found, quoted, budget=opened.shown_spent())
    parts = sections.of_study(
        content,
        study,
        overview.build(found, quoted),
        noise=noise.of_study(study, opened.settings) if found.tuned else None,
        folder=_from_here(folder),
    )
    if not found.own_code:
        model = next(i for i, part in enumerate(parts) if part.id == "model")
        parts.insert(model, _tokenizer(content, opened))
    try:
        return Written(content, tuple(_write(content, parts, folder, result)))
    except OSError as error:
        where = error.filename or folder
        raise ReportError(f"{where}: cannot be written: {error.strerror or error}") from None


def _from_here(folder: Path) -> str:
    """The folder as a command given here would name it."""
    with contextlib.suppress(ValueError):
        return str(folder.resolve().relative_to(Path.cwd()))
    return str(folder)


def published_file(study: optuna.Study, definition: StudyDefinition) -> Path | None:
    """`published.yaml` beside the file that the study was made from, whatever the study is called."""
    made_from = definition.file or _file_of_command(study)
    path = found_in(HOME, made_from).with_name("published.yaml") if made_from else None
    return path if path is not None and path.is_file() else None


def _file_of_command(study: optuna.Study) -> str | None:
    """The study file that made a study which has not recorded it: as the command which made it names it."""
    words = shlex.split(str(study.user_attrs.get(COMMAND, "")))
    if "--study" not in words[:-1]:
        return None
    named = words[words.index("--study") + 1]
    is_path = os.sep in named or named.endswith((".yaml", ".yml"))
    path = Path(named) if is_path else Path("studies") / named
    return str(path if path.suffix in (".yaml", ".yml") else path / "study.yaml")


def _tokenizer(content: Content, opened: OpenedStudy) -> Section:
    try:
        return sections.tokenizer(content.record, opened.corpus, opened.settings)
    except CorpusError as error:  # the rest of the report does not need the corpus
        return Section("tokenizer", "Tokenizer", warnings=(f"Not measured: {error}",))


def _write(content: Content, parts: list[Section], folder: Path, result: Path | None) -> list[Path]:
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    drawn = [path for part in parts for plot in part.plots for path in static.write(plot, folder / FIGURES)]
    title = f"Study {content.record.name}"
    html = html_page.render(
        title,
        content.record.question,
        parts,
        budget=content.budget,
        files=[f"{FIGURES}/{path.name}" for path in drawn],
    )
    texts = {
        folder / "report.html": html,
        folder / "report.md": text.markdown(content, [part for part in parts if part.id in _OPENING]),
        folder / "result.json": text.result(content),
        **{folder / name: csv for name, csv in text.csv_files(content).items()},
    }
    if content.record.tuned and (best := search.whole_configuration(content.record)):
        texts[folder / search.BEST_FILE] = best
    if result:
        result.parent.mkdir(parents=True, exist_ok=True)
        texts[result] = texts[folder / "result.json"]
    for path, written in texts.items():
        path.write_text(written, encoding="utf-8")
    return [*texts, *drawn]
