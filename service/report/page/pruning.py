"""What a study shows of pruning: what it saved, what it stopped wrongly, from which rung on the order is the final one.

The first note of each table is what it says, in a sentence.
"""

from collections.abc import Sequence
from dataclasses import replace

from optuna.distributions import CategoricalDistribution

from service.report.page.html_page import Section
from service.report.pruning import quality
from service.report.pruning.quality import Proportion, RankCorrelation, TrialLosses
from service.report.pruning.replay import Replay, candidates, orders_of, replay
from service.report.record.study_record import StudyRecord
from service.study.pruners import PrunerConfig
from service.text.numbers import NONE, number
from service.text.tables import Table

PREFIX = "pruning"
"""Begins the ids of these tables."""
_SEARCH_SIZE = 20
"""Arms from which on a design says something of pruning: such a grid is a search of its own."""
_ENDS = ("complete", "pruned", "diverged")
_KEPT = "the complete trials that the pruner let run"


def tables(record: StudyRecord) -> tuple[Table, ...]:
    """Those that the study has something to say in; none of a small design, or of one with several budgets."""
    curves = curves_of(record)
    searched = record.tuned or len(record.arms) >= _SEARCH_SIZE or record.definition.pruner.name != "none"
    if not searched or len({curve.budget_tokens for curve in curves}) != 1:
        return ()
    unit, pauses = record.words.budget, record.definition.pauses
    # of a trial that waits nobody has said that it is no good
    audit = None if pauses else _audit(curves, record)
    found = (_savings(curves, unit, pauses=pauses), audit, _ranks(curves, unit), _replays(curves, record))
    return tuple(table for table in found if table)


def has(table: Table) -> bool:
    """Whether the table is one of these."""
    return table.id.startswith(PREFIX)


def section(found: Sequence[Table]) -> Section:
    """These tables, with what they say above them."""
    said = tuple(table.notes[0] for table in found)
    # a table without rows has said all it can
    shown = tuple(replace(table, notes=table.notes[1:]) for table in found if table.rows)
    return Section(PREFIX, "Pruning", texts=said, tables=shown)


def curves_of(record: StudyRecord) -> tuple[TrialLosses, ...]:
    """The study's trials in order, as far as they have been evaluated and did not fail."""
    space = record.definition.space
    categorical = {
        key
        for key, range_ in space.distributions.items()
        if key.startswith("schedule.") and isinstance(range_, CategoricalDistribution)
    }
    found = []
    for run in sorted(record.runs, key=lambda run: run.trial):
        if run.state in _ENDS and run.curve:
            values = space.within(run.config) if categorical else {}
            found.append(
                TrialLosses(
                    trial=run.trial,
                    losses={int(row["rung_tokens"]): float(row["val_loss"]) for row in run.curve},
                    budget_tokens=record.budget_tokens
                    if record.own_code
                    else run.config.get("training", {}).get("tokens") or record.budget_tokens,
                    ended=run.state,  # type: ignore[arg-type]  # it is one of _ENDS
                    audit_tokens=run.audit["tokens"] if run.audit else None,
                    settings={key: str(values[key]) for key in categorical if key in values},
                )
            )
    return tuple(found)


def _savings(curves: Sequence[TrialLosses], unit: str, *, pauses: bool) -> Table | None:
    found = quality.savings(curves)
    if not found.trials:
        return None
    row = (
        f"{found.trials}",
        f"{found.pruned}",
        f"{found.budget_tokens:,}",
        f"{found.budget_tokens - found.saved_tokens:,}",
        f"{found.saved_tokens:,}",
        f"{found.share:.1%}",
        f"{found.audit_tokens:,}",
    )
    headings = (
        "trials", "of them pruned", f"{unit} of their budgets", f"{unit} trained", f"{unit} saved", "share saved",
        f"{unit} that the audit cost",
    )  # fmt: skip
    if pauses and found.pruned:
        said = (
            f"Of {found.trials} trials that were begun {found.pruned} waited to the end and never went on, "
            f"{found.share:.1%} of the {unit} that all would have taken"
        )
    else:
        said = f"Pruning saved {found.share:.1%} of the {unit}" if found.pruned else "No trial was pruned"
    if found.audit_tokens:
        said += f"; its audit cost {found.audit_tokens / found.budget_tokens:.1%}, which is taken off already"
    note = f"Training {unit} alone. Trials that diverged, failed or were handed on are not counted."
    return Table(PREFIX, "What pruning saved", headings, (row,), (f"{said}.", note))


def _audit(curves: Sequence[TrialLosses], record: StudyRecord) -> Table | None:
    """How many of the audited trials were to be stopped wrongly; None where the pruner stopped nothing."""
    stopped = sum(curve.ended == "pruned" or curve.audit_tokens is not None for curve in curves)
    if not stopped:
        return None
    headings = ("of the audited trials", "trials", "of", "share", "95 % interval")
    found = quality.audited(curves)
    if found is None:
        if any(curve.audit_tokens is not None for curve in curves):
            why = "no other trial is complete"
        elif record.definition.pruner.audit:
            why = "none was drawn for the audit yet"
        else:
            why = "none ran on to its end; with `audit: 0.05` in the pruner's section some would"
        said = f"How many of the {stopped} trials that the pruner stopped were stopped wrongly cannot be told: {why}."
        return Table(f"{PREFIX}-audit", "Stopped wrongly", headings, (), (said,))
    half = found.better_half
    low, high = half.interval
    share_said = f"between {low:.0%} and {high:.0%}"
    if half.of < quality.ENOUGH_AUDITS:
        said = (
            f"Too few trials were audited to tell how often the pruner is wrong, {half.of} of the "
            f"{quality.ENOUGH_AUDITS} that it takes: {share_said} of what it stops."
        )
    else:
        said = (
            f"{half.value:.0%} of what the pruner stops, {share_said}, would have ended in the better half of what it "
            "keeps."
        )
    if found.winners.count:
        said += f" {found.winners.count} would have been better than the best that it kept."
    rows = tuple(
        (name, f"{share.count}", f"{share.of}", *_shares(share))
        for name, share in {
            f"final loss below the best of {_KEPT}": found.winners,
            f"final loss below the median of {_KEPT}": half,
        }.items()
    )
    note = (
        f"Of {stopped} trials that the pruner stopped, {half.of} were drawn and ran on to their end. Exact binomial "
        "interval (Clopper and Pearson 1934). An audited trial that diverged later was stopped rightly."
    )
    return Table(f"{PREFIX}-audit", "Stopped wrongly", headings, rows, (said, note))


def _shares(share: Proportion) -> tuple[str, str]:
    low, high = share.interval
    return f"{share.value:.1%}", f"{low:.1%} to {high:.1%}"


def _ranks(curves: Sequence[TrialLosses], unit: str) -> Table | None:
    """The correlation of each rung's losses with the final ones, over all trials and for each kind of schedule."""
    groups = {"all trials": list(curves), **quality.by_setting(curves)}
    found = {name: quality.rank_correlations(group) for name, group in groups.items()}
    found = {name: correlations for name, correlations in found.items() if correlations}
    if "all trials" not in found:
        return None
    by_rung = {name: {each.tokens: each for each in group} for name, group in found.items()}
    rows = tuple(
        (
            f"{tokens:,}",
            f"{each.budget_share:.1%}",
            *(_correlation(group.get(tokens)) for group in by_rung.values()),
        )
        for tokens, each in by_rung["all trials"].items()
    )
    headings = (
        f"rung, {unit}",
        "of the budget",
        *(f"{name}, {group[0].trials}" for name, group in found.items()),
    )
    small = [name for name in groups if name not in found]
    notes = [
        f"The warmup_fraction that follows, from which on the rank correlation with the end is {quality.FAITHFUL} or "
        f"more: {', '.join(_warmup(name, group) for name, group in found.items())}.",
        "Spearman's rank correlation of the losses at a rung with those at the end, over the complete trials (their "
        "number stands beside the name), with Fisher's 95 % interval, a little too narrow from 0.97 on. What a "
        "pruner stopped is missing, so that the others are more alike and their correlations lower than those of all.",
    ]
    if small:
        notes.append(f"Fewer than {quality.FEWEST_TRIALS} complete trials: {', '.join(small)}.")
    return Table(f"{PREFIX}-ranks", "How early the final order shows", headings, rows, tuple(notes))


def _correlation(found: RankCorrelation | None) -> str:
    if found is None:
        return NONE
    rho, low, high = (f"{round(value, 2) + 0.0:.2f}" for value in (found.rho, *found.interval))  # no -0.00
    return f"{rho} ({low} to {high})"


def _warmup(name: str, found: Sequence[RankCorrelation]) -> str:
    """`decay wsd 0.875`."""
    fraction = quality.warmup_fraction(found)
    return f"{name} none, prune nothing" if fraction is None else f"{name} {fraction:g}"


def _replays(curves: Sequence[TrialLosses], record: StudyRecord) -> Table | None:
    """What pruners would have done; None where one has, or where the trials are few."""
    complete = [curve for curve in curves if curve.ended == "complete"]
    if len(complete) < quality.FEWEST_TRIALS or any(curve.ended == "pruned" for curve in curves):
        return None
    rungs = len({tokens for curve in complete for tokens in curve.losses})
    orders = orders_of(curves)
    found = [replay(orders, pruner, study_name=record.name) for pruner in candidates(rungs)]
    rows = tuple(
        (
            _name(each.pruner),
            number(each.stopped),
            f"{each.saved:.1%}",
            NONE if each.wrongly is None else f"{each.wrongly:.1%}",
            f"{each.lost} of {each.orders}",
            number(each.regret),
        )
        for each in found
    )
    saved = f"{record.words.budget} saved"
    headings = (
        "pruner", "trials stopped", saved, "stopped wrongly", "orders in which the best is lost",
        "best kept less best of all",
    )  # fmt: skip
    note = (
        f"Of the {len(complete)} trials that ran to their ends. Each pruner was shown all trials in their order and in "
        f"{len(orders) - 1} random ones, and stopped what it would have stopped; the figures are means. Stopped "
        "wrongly: would have ended below the median of what was kept. A sampler would have gone on differently."
    )
    title = "What pruners would have done"
    return Table(f"{PREFIX}-replay", title, headings, rows, (_best_replay(found, record.words.budget), note))


def _best_replay(found: Sequence[Replay], unit: str) -> str:
    safe = [each for each in found if each.stopped and not each.lost]
    if not safe:
        return "No pruner would have stopped trials and kept the best one in every order."
    best = max(safe, key=lambda each: each.saved)
    return (
        f"Of the pruners that would have kept the best trial in all {best.orders} orders, {_name(best.pruner)} would "
        f"have saved most: {best.saved:.0%} of the {unit}."
    )


def _name(pruner: PrunerConfig) -> str:
    warmup = getattr(pruner, "warmup_fraction", None)
    return pruner.name if warmup is None else f"{pruner.name}, warm-up {warmup:g}"
