"""The tables of a report, as rows of text under headings."""

from collections.abc import Sequence

from service.report.published.claims import CheckedClaim
from service.report.published.document import Published, PublishedTable
from service.report.record import comparison
from service.report.record.metrics import FIGURES
from service.report.record.study_record import Arm, StudyRecord
from service.statistics import MAX_SEEDS, Estimate, differences, estimate, seeds_needed
from service.text.numbers import LOSS as LOSS_DECIMALS
from service.text.numbers import NONE, interval, mean_and_sd, number, of_difference
from service.text.tables import Table

LOSS = "val_loss"
TUNED_ROWS = 20
"""Configurations of a tuned study in its summary, the best ones."""
_PREDICTIONS = ("accuracy", "top5_accuracy", "top1_gap", "confidence", "confidence_gap", "entropy", "ece")
_SPEED = (
    "tokens_per_second", "steps_per_second", "step_seconds", "step_seconds_std", "train_seconds", "evaluation_seconds",
    "data_seconds", "utilisation", "peak_memory_bytes", "memory_reserved_bytes",
)  # fmt: skip
_STABILITY = (
    "grad_norm",
    "grad_norm_std",
    "grad_norm_max",
    "loss_spikes",
    "nonfinite_events",
    "convergence_improvement",
)


def summary(record: StudyRecord) -> Table:
    """A row an arm: its loss over seeds, its size and its cost; of a tuned study the best, best first."""
    rows, notes = [], []
    arms: Sequence[Arm] = record.arms
    if record.tuned:
        arms = record.best_arms[:TUNED_ROWS]
        notes.append(f"The best {len(arms)} of {len(record.arms)} configurations, each with one seed.")
    else:
        together = [
            f"equal {resource}"
            for resource in comparison.RESOURCES
            if comparison.end_together(record, resource)
        ]
        if together:
            at = record.words.of_budget(" and ".join(together))
            notes.append(f"All arms end together, so that these are the losses at {at}.")
    costs = {"bits_per_byte": "bits/byte", "parameters": "parameters", "tokens": "tokens", "step": "steps"}
    costs = {**({"tokens": record.words.budget} if record.own_code else costs), "seconds": "seconds"}
    for arm in arms:
        loss = estimate(list(arm.values(LOSS).values()))
        cells = [
            _count(arm),
            mean_and_sd(loss, decimals=LOSS_DECIMALS),
            interval(loss, decimals=LOSS_DECIMALS),
        ]
        cells += [_mean(arm, name) for name in costs]
        rows.append((arm.name, *cells))
    headings = ("arm", "runs", f"{record.words.metric}, mean ± sd", "95 % interval", *costs.values())
    title = "The best configurations" if record.tuned else "Arms"
    return Table("summary", title, headings, tuple(rows), tuple(notes))


def paired_differences(record: StudyRecord) -> Table | None:
    """Each arm's loss minus the baseline's, seed by seed, and how many seeds such a difference needs."""
    baseline = record.arm(record.baseline or "")
    if baseline is None or record.tuned or len(record.arms) < 2:
        return None
    rows = []
    for arm in record.arms:
        if arm is not baseline:
            found = estimate(list(differences(arm.values(LOSS), baseline.values(LOSS)).values()))
            rows.append((arm.name, *_difference(found), _seeds_for(found)))
    return Table(
        "differences",
        f"{record.words.metric} minus that of {baseline.name}, seed by seed",
        ("arm", "shared seeds", "difference, mean ± sd", "95 % interval", "excludes 0", "seeds needed"),
        tuple(rows),
        (
            "Student's t-interval over the seeds that both arms have.",
            "Seeds needed: with so many, a difference of this size and spread would have an interval that excludes 0 "
            "with a probability of 80 %; a spread known from few seeds makes it a rough guess.",
        ),
    )


def further_metrics(record: StudyRecord) -> list[Table]:
    """Predictions, stability and speed: means over seeds of the metrics that a run has."""
    found = []
    for title, names in {
        "Predictions": _PREDICTIONS,
        "Stability": _STABILITY,
        "Speed and memory": _SPEED,
    }.items():
        there = [name for name in names if any(arm.values(name) for arm in record.arms)]
        if there and not record.tuned and not record.own_code:
            rows = tuple((arm.name, *(_mean(arm, name, sd=True) for name in there)) for arm in record.arms)
            headings = ("arm", *(FIGURES[name].label for name in there))
            found.append(Table(title.split()[0].lower(), title, headings, rows))
    return found


def published_table(table: PublishedTable, record: StudyRecord) -> Table:
    """A document's table, cell by cell: what it says, what was measured here, and what is wrong with it."""
    notes: dict[str, int] = {}

    def marks(*texts: str | None) -> str:
        numbers = [notes.setdefault(text, len(notes) + 1) for text in texts if text]
        return "".join(f" ({n})" for n in numbers)

    headings = ["arm", "runs"]
    for column in table.columns:
        unit = f", {column.unit}" if column.unit else ""
        headings.append(f"{column.name}{unit}: published{marks(column.note)}")
        if column.metric:
            headings.append(f"{column.metric}: measured")
    rows = []
    for row in table.rows:
        arm = record.arm(row.arm)
        cells = [row.label or row.arm, _count(arm) if arm else "not run"]
        for column in table.columns:
            cells.append(number(row.values.get(column.name)) + marks(row.notes.get(column.name)))
            if column.metric:
                cells.append(_mean(arm, column.metric, sd=True) if arm else NONE)
        rows.append(tuple(cells))
    texts = (f"({n}) {text}" for text, n in notes.items())
    source = f"Published: {table.source}. Measured: mean ± standard deviation over the complete runs."
    return Table(f"published-{table.id}", table.title, tuple(headings), tuple(rows), (source, *texts))


def defects(published: Published) -> Table | None:
    """What is known to be wrong with the published figures."""
    rows = tuple((defect.id, defect.text) for defect in published.defects)
    return Table("defects", "Defects of the published figures", ("", "what"), rows) if rows else None


def claims(checked: Sequence[CheckedClaim]) -> Table:
    """The checklist."""
    rows = tuple((claim.text, claim.source, claim.verdict, claim.shown) for claim in checked)
    return Table("claims", "Claims", ("claim", "source", "verdict", "shown by"), rows)


def runs(record: StudyRecord) -> Table:
    """A row a trial that began, however it ended."""
    rows = tuple(
        (
            str(run.trial),
            run.arm,
            str(run.seed),
            run.state,
            run.ended,
            number(run.metrics.get(LOSS), decimals=LOSS_DECIMALS),
            number(run.metrics.get("seconds"), decimals=1),
        )
        for run in sorted(record.runs, key=lambda run: run.trial)
    )
    headings = ("trial", "arm", "seed", "state", "ended", f"last {record.words.metric}", "seconds")
    return Table("runs", "Runs", headings, rows)


def definitions(record: StudyRecord, published: Published | None) -> Table:
    """Every metric that a run has or a published table names: what it is, of which split, and when it is measured."""
    if record.own_code:
        own = (
            (record.words.metric, "what the study's own training code minimises; `val_loss` in files", NONE),
            (record.words.budget, "how long it has trained, as it says; `tokens` in files", NONE),
            ("seconds", "time in that code, evaluations included", "s"),
        )
        return Table("definitions", "Metrics", ("metric", "definition", "unit"), own)
    named = {column.metric for table in (published.tables if published else ()) for column in table.columns}
    rows = tuple(
        (name, of.definition, of.unit or NONE, of.split or NONE, of.instant or NONE)
        for name, of in FIGURES.items()
        if name in named or any(arm.values(name) for arm in record.arms)
    )
    headings = ("metric", "definition", "unit", "split", "measured")
    return Table("definitions", "Metrics", headings, rows)


def _difference(found: Estimate | None) -> tuple[str, str, str, str]:
    """Seeds, mean with standard deviation, interval, and whether that excludes 0."""
    if found is None:
        return "0", NONE, NONE, NONE
    decimals = of_difference(found)
    shown = mean_and_sd(found, decimals=decimals)
    if found.interval is None:
        return "1", shown, "one seed: no interval", NONE
    excludes = "yes" if found.low > 0 or found.high < 0 else "no"
    return str(found.n), shown, interval(found, decimals=decimals), excludes


def _seeds_for(found: Estimate | None) -> str:
    if found is None or found.sd is None:
        return NONE
    needed = seeds_needed(found.mean, found.sd)
    return f"over {MAX_SEEDS:,}" if needed is None else f"{needed:,}"


def _count(arm: Arm) -> str:
    """Complete runs, and of how many where some are not."""
    complete = len(arm.complete)
    return str(complete) if complete == len(arm.runs) else f"{complete} of {len(arm.runs)}"


def _mean(arm: Arm, name: str, *, sd: bool = False) -> str:
    """Over the complete runs, with the number of those that have the metric where not all of them do."""
    values = list(arm.values(name).values())
    found = estimate(values)
    decimals = LOSS_DECIMALS if name == "bits_per_byte" else None  # a loss, too
    text = mean_and_sd(found) if sd else _middle(found, decimals=decimals)
    return text if len(values) in (0, len(arm.complete)) else f"{text} (of {len(values)})"


def _middle(found: Estimate | None, *, decimals: int | None = None) -> str:
    return number(found.mean if found else None, decimals=decimals)
