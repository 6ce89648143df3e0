"""Everything that a report says, before it takes a form."""

from collections.abc import Iterator
from dataclasses import dataclass

from service.report.page import budgets, pruning, search, tables
from service.report.published.claims import CheckedClaim, check
from service.report.published.document import Published
from service.report.record.study_record import StudyRecord
from service.text.numbers import number
from service.text.tables import Table


@dataclass(frozen=True)
class Content:
    """What page, Markdown, JSON and CSV all show."""

    record: StudyRecord
    published: Published | None
    facts: tuple[tuple[str, str], ...]
    """What it was measured on: scale, device, corpus, budget, seeds; a name and its value each."""
    warnings: tuple[str, ...]
    """What a reader must know before the numbers: runs that ended early, a single seed, arms without a run."""
    tables: tuple[Table, ...]
    claims: tuple[CheckedClaim, ...]
    budget: str | None = None
    """What of the study's budget is spent and what is left; None where it is a number of trials."""


def build(record: StudyRecord, published: Published | None, *, budget: str | None = None) -> Content:
    """The content of a study's report.

    Args:
        record: of the study.
        published: None where no document stands behind it.
        budget: what of it is spent and what is left; None where it is a number of trials.
    """
    checked = tuple(check(claim, record) for claim in published.claims) if published else ()
    quoted = (tables.published_table(table, record) for table in (published.tables if published else ()))
    costs, pruned = budgets.tables(record), pruning.tables(record)
    found: list[Table | None]
    if record.tuned:
        found = [search.trials_table(record), tables.summary(record), *costs, *pruned]
    else:
        found = [
            tables.summary(record),
            tables.paired_differences(record),
            tables.defects(published) if published else None,  # its codes stand in the tables that follow
            *quoted,
            tables.claims(checked) if checked else None,
            *costs,
            *tables.further_metrics(record),
            *pruned,
            tables.runs(record),
        ]
    found.append(tables.definitions(record, published))
    return Content(
        record=record,
        published=published,
        facts=tuple(_facts(record, published)),
        warnings=tuple(_warnings(record, published)),
        tables=tuple(table for table in found if table),
        claims=checked,
        budget=budget,
    )


def _facts(record: StudyRecord, published: Published | None) -> Iterator[tuple[str, str]]:
    corpus = record.corpus
    yield (
        "scale",
        record.scale or "the study's own, as published" if published else record.scale or "the study's own",
    )
    yield "device", "; ".join(record.devices) or "not known"
    if record.own_code:
        yield "trains", f"{corpus['source']}, fingerprint of its file {corpus['fingerprint']}"
    else:
        train, validation, held_out = corpus["documents"]
        yield "corpus", f"{corpus['source']}, fingerprint {corpus['fingerprint']}"
        documents = f"{train:,} train, {validation:,} validation, {held_out:,} held-out"
        yield (
            "documents",
            f"{documents}; {corpus['train_tokens']:,} training tokens under the base file's tokenizer",
        )
        yield "model", f"{_range(record, 'parameters')} parameters"
    budget = _range(record, "tokens") or f"{record.budget_tokens:,}"
    yield "budget of a run", f"{budget} {record.words.budget}"
    yield "seeds", ", ".join(map(str, record.seeds)) or "no run yet"
    yield "trials", record.shown_states or "none yet"
    if record.baseline and not record.tuned:
        yield "compared with", record.baseline
    if published:
        yield "published figures", published.source


def _range(record: StudyRecord, metric: str) -> str:
    """`2,560,128`, or the smallest and the largest, over all complete runs."""
    values = [value for arm in record.arms for value in arm.values(metric).values()]
    return " to ".join(dict.fromkeys(map(number, (min(values), max(values))))) if values else ""


def _warnings(record: StudyRecord, published: Published | None) -> Iterator[str]:
    if record.scale and published:
        yield (
            f"Measured at scale {record.scale!r}, not at the published size: what is said of a claim holds for this "
            "scale, and published losses stand beside the measured ones for their order, not for their size."
        )
    if record.tuned:
        yield "Each configuration has one run: differences between neighbours may be chance."
    elif len(record.seeds) == 1:
        yield "One seed: no interval, and no difference can be told from chance."
    for arm in () if record.tuned else record.arms:
        if arm.ended_early:
            broken = (run for run in arm.runs if not run.complete)
            reasons = "; ".join(f"trial {run.trial}, seed {run.seed}: {run.ended}" for run in broken)
            yield f"{arm.name}: {arm.ended_early}, left out of means and intervals ({reasons})."
    begun = {arm.name for arm in record.arms}
    not_begun = [name for name in dict.fromkeys(record.definition.arms) if name not in begun]
    if not_begun:
        yield f"No run yet: {', '.join(not_begun)}."
    strangers = [name for name in published.arms() if name not in record.definition.arms] if published else []
    if strangers:
        yield f"Published, and no arm of this study: {', '.join(strangers)}."
    if len(record.devices) > 1:
        yield "Runs were trained on different devices: their seconds and memory cannot be compared."
