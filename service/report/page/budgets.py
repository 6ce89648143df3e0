"""What each arm's loss cost, and a leaderboard for equal tokens, equal operations and equal seconds.

The budget is where the reference ends, so that its own loss is that of a whole schedule.
"""

from collections.abc import Sequence

from service.report.figures.plots import Axis, Chart, Plot, Series, plot_of
from service.report.figures.series import MOST_TRIALS, drawn_arms, field, lines
from service.report.page.tables import LOSS, TUNED_ROWS
from service.report.record import comparison
from service.report.record.comparison import RESOURCES, Point, Resource
from service.report.record.study_record import Arm, StudyRecord
from service.statistics import differences, estimate, mean
from service.text.numbers import LOSS as LOSS_DECIMALS
from service.text.numbers import NONE, interval, mean_and_sd, number, of_difference
from service.text.quantities import shown_operations
from service.text.tables import Table

_COMPUTE, _EQUAL = "compute", "equal-"
"""Ids of the tables: of the one of costs, and how those of the leaderboards begin."""
CONVENTION = (
    "In a plain step every training token costs one forward and one backward pass; two of each with SAM and ASAM, "
    "whose update takes the gradient a second time, and two of each with R-Drop, which passes every batch twice; four "
    "of each with both. FLOPs are counted in closed form: matrix products alone, a backward pass as two forward ones, "
    "attention over its whole window. Seconds are those of training steps. Evaluations are not counted."
)
_UNITS: dict[Resource, str] = {
    "tokens": "training tokens",
    "steps": "steps",
    "FLOPs": "FLOPs of training",
    "seconds": "seconds of training",
}
_DRAWN: tuple[Resource, ...] = ("tokens", "FLOPs", "seconds")
_OUTLINE = 6
"""The grey style, of what is no arm."""


def reference(record: StudyRecord) -> Arm | None:
    """The arm whose end is the budget: the baseline, or the best arm where that has no complete run."""
    baseline = record.arm(record.baseline or "")
    if baseline is not None and baseline.values(LOSS):
        return baseline
    return next(iter(record.best_arms), None)


def tables(record: StudyRecord) -> list[Table]:
    """Costs, and a leaderboard for each resource on which the arms do not end together."""
    if len(record.best_arms) < 2 or record.own_code:
        return []
    return [_compute(record), *(table for resource in RESOURCES if (table := at_equal(record, resource)))]


def has(table: Table) -> bool:
    """It is one of `tables`."""
    return table.id == _COMPUTE or table.id.startswith(_EQUAL)


def at_equal(record: StudyRecord, resource: Resource) -> Table | None:
    """The arms by their losses within the reference's budget, best first; of a search the first `TUNED_ROWS`.

    None where all arms end together: the table of costs then has their order.
    """
    arm = reference(record)
    point = comparison.end_of(arm, resource) if arm else None
    if arm is None or point is None or comparison.end_together(record, resource):
        return None
    theirs = comparison.losses_within(arm, resource, point.x)
    ranked = _ranked(record, point)
    rows = [_row(each, point, theirs, of_reference=each is arm, tuned=record.tuned) for each in ranked]
    headings = [
        "arm",
        f"its own end, {resource}",
        "val_loss there",
        f"val_loss at equal {resource}",
        f"minus {arm.name}",
    ]
    if not record.tuned:
        headings.append("95 % interval")
    title = f"val_loss at equal {resource}: {_shown(resource, point.x)}"
    return Table(
        f"{_EQUAL}{resource.lower()}",
        title,
        tuple(headings),
        tuple(rows),
        tuple(_notes(ranked, point, record)),
    )


def plot(record: StudyRecord) -> Plot | None:
    """Each arm's curve against tokens, operations and seconds, with the reference's budget."""
    charts = (_chart(record, resource) for resource in _DRAWN)
    best = f", of the best {MOST_TRIALS} trials and the baseline" if record.tuned else ""
    caption = (
        f"Validation loss at each rung, the mean over seeds with its 95 % interval{best}. Dashed: where the reference "
        "ends. A curve that goes on beyond it is in the middle of its schedule there, and at a disadvantage."
    )
    return plot_of("equal-budgets", "Validation loss against what it cost", caption, charts)


def _compute(record: StudyRecord) -> Table:
    arms = record.best_arms
    notes = [CONVENTION]
    together = [resource for resource in RESOURCES if comparison.end_together(record, resource)]
    if together:
        notes.append(f"All arms end at the same {' and '.join(together)}: this is their order there.")
    if record.tuned and len(arms) > TUNED_ROWS:
        notes.append(f"The best {TUNED_ROWS} of {len(arms)}.")
        arms = arms[:TUNED_ROWS]
    headings = (
        "arm", "val_loss at its end", "forward passes a token", "backward passes a token", "FLOPs a token", "tokens",
        "FLOPs of training", "seconds of training",
    )  # fmt: skip
    rows = tuple(
        (
            arm.name,
            mean_and_sd(estimate(list(arm.values(LOSS).values())), decimals=LOSS_DECIMALS),
            number(_mean(arm, "passes_per_token")),
            number(_mean(arm, "passes_per_token")),
            _operations(_mean(arm, "flops_per_token")),
            number(_mean(arm, "tokens")),
            _operations(_mean(arm, "train_flops")),
            number(_mean(arm, "train_seconds")),
        )
        for arm in arms
    )
    return Table(_COMPUTE, "What each loss cost, best first", headings, rows, tuple(notes))


def _ranked(record: StudyRecord, point: Point) -> list[Arm]:
    """The arms with a complete run, by their mean loss within the budget; those without one there at the end."""
    means = {arm.name: _mean_within(arm, point) for arm in record.best_arms}
    ranked = sorted(record.best_arms, key=lambda arm: (means[arm.name] is None, means[arm.name] or 0.0))
    if not record.tuned:
        return ranked
    return [arm for place, arm in enumerate(ranked) if place < TUNED_ROWS or arm.name == point.arm]


def _row(
    arm: Arm, point: Point, theirs: dict[int, float], *, of_reference: bool, tuned: bool
) -> tuple[str, ...]:
    end = estimate(comparison.ends(arm, point.resource))
    losses = comparison.losses_within(arm, point.resource, point.x)
    against = None if of_reference else estimate(list(differences(losses, theirs).values()))
    decimals = of_difference(against)
    cells = (
        arm.name,
        _shown(point.resource, end.mean) if end else NONE,
        mean_and_sd(estimate(list(arm.values(LOSS).values())), decimals=LOSS_DECIMALS),
        mean_and_sd(estimate(list(losses.values())), decimals=LOSS_DECIMALS)
        + (_mark(arm, point) if losses else ""),
        mean_and_sd(against, decimals=decimals),
    )
    return cells if tuned else (*cells, interval(against, decimals=decimals))


def _mark(arm: Arm, point: Point) -> str:
    unfinished, before = comparison.is_unfinished(arm, point), comparison.ends_before(arm, point)
    return " *" * unfinished + " †" * before


def _notes(ranked: Sequence[Arm], point: Point, record: StudyRecord) -> list[str]:
    notes = [
        f"The budget: {_shown(point.resource, point.x)} {_UNITS[point.resource]}, where {point.arm} ends. "
        "Losses are linear between rungs."
    ]
    if any(comparison.is_unfinished(arm, point) for arm in ranked):
        notes.append(
            "* In the middle of its schedule, and at a disadvantage: its learning rate has not come down yet there, "
            "and a run planned for this budget would likely end lower."
        )
    before = [arm.name for arm in ranked if comparison.ends_before(arm, point)]
    if before:
        notes.append(f"† Ended before, on less, and stands with its loss there: {', '.join(before)}.")
    beyond = [arm.name for arm in ranked if not comparison.losses_within(arm, point.resource, point.x)]
    if beyond:
        notes.append(f"{NONE}: not evaluated by then, its first rung lies beyond: {', '.join(beyond)}.")
    complete = len(record.best_arms)
    if len(ranked) < complete:
        notes.append(f"The best {len(ranked)} of {complete} complete trials, each with one seed.")
    if point.resource == "seconds":
        notes.append("Seconds are of this machine, under the load of the other workers on it.")
    return notes


def _chart(record: StudyRecord, resource: Resource) -> Chart | None:
    series = lines(
        drawn_arms(record),
        lambda run, row: comparison.position(run, row, resource),
        field(LOSS),
        rows=lambda run: run.curve,
    )
    arm = reference(record)
    point = comparison.end_of(arm, resource) if arm else None
    if not series or point is None:
        return None
    losses = [loss for one in series for loss in one.y]
    budget = Series(
        f"where {point.arm} ends", (point.x, point.x), (min(losses), max(losses)), style=_OUTLINE, dashed=True
    )
    furthest = [max(one.x) for one in series]
    log = max(furthest) > 10 * min(furthest)
    return Chart(
        Axis(_UNITS[resource], log=log),
        Axis(f"{LOSS}, nats per character"),
        (*series, budget),
        f"against {resource}",
    )


def _mean_within(arm: Arm, point: Point) -> float | None:
    return mean(comparison.losses_within(arm, point.resource, point.x).values())


def _mean(arm: Arm, metric: str) -> float | None:
    return mean(arm.values(metric).values())


def _shown(resource: Resource, x: float) -> str:
    return shown_operations(x) if resource == "FLOPs" else number(x)


def _operations(count: float | None) -> str:
    return NONE if count is None else shown_operations(count)
