"""What a tuner wants of a search: the best configuration, what to try next, what mattered, all trials."""

import math
import shlex
from collections.abc import Sequence
from typing import Any

import optuna
import yaml

from service.report.figures import tuned
from service.report.figures.expected import at_the_end
from service.report.figures.plots import Plot
from service.report.page.advice import advice
from service.report.page.html_page import Section
from service.report.page.tables import LOSS
from service.report.record.noise import Noise
from service.report.record.study_record import Arm, Run, StudyRecord
from service.storage.added import only_in_space
from service.storage.budget import how_it_stopped, what_came
from service.storage.ownership import generation_of
from service.study.parameters import same
from service.study.search_space import leaves
from service.text import numbers
from service.text.commands import verb
from service.text.quantities import short_key, shown_number
from service.text.tables import Table

CURVES = "val-loss-curves"
"""The figure that stands with the search's own."""
BEST_FILE = "best.yaml"
"""The best configuration, whole, beside the page."""
_TRIALS = "trials"
_MEASURED = f"{LOSS} in nats per character over the whole validation split"
_ELSEWHERE_SD = 0.0026
"""Over sixteen seeds of half a million parameters, in `studies/noise`."""
_NOISE_ELSEWHERE = (
    " For scale: in `studies/noise`, half a million parameters, a run's "
    f"loss has a standard deviation of {_ELSEWHERE_SD} over seeds, and two single runs that differ by less than "
    f"{numbers.difference(2.77 * _ELSEWHERE_SD)} are not told apart; smaller models and shorter trainings vary more."
)


def sections(
    record: StudyRecord,
    study: optuna.Study,
    noise: Noise | None,
    *,
    plots: Sequence[Plot],
    table: Table,
    folder: str,
) -> list[Section]:
    """The sections that a search's page begins with.

    Args:
        record: with a complete trial.
        study: as loaded.
        noise: where it has been confirmed.
        plots: the figures that every report has.
        table: that of all trials.
        folder: of the page, as people name it in a command.
    """
    space, generation = record.definition.space, generation_of(study)
    expected = at_the_end(record)
    found = tuned.importances(
        expected or only_in_space(study, space, generation), forecast=expected is not None
    )
    curves = tuple(plot for plot in plots if plot.id == CURVES)
    few = f"No importances: they need {tuned.FEWEST} complete trials with different losses."
    suggested = advice(record, found, noise)
    stopped, came = how_it_stopped(study.user_attrs), what_came(study.user_attrs, _whole_losses(record))
    return [
        _best(record, noise, folder),
        Section(
            "next",
            "Worth trying next",
            points=suggested,
            texts=(
                *(f"{said[:1].upper()}{said[1:]}." for said in (stopped, came) if said),
                *(() if suggested else ("The trials suggest nothing in particular.",)),
            ),
            commands=() if noise else (verb("confirm", record.name, "--top", "5", "--seeds", "5"),),
            notes=()
            if noise
            else ("It says whether the best is better, or was lucky, and measures the seeds' noise.",),
        ),
        Section(
            "search",
            "What the search found",
            warnings=found.warnings if found else (),
            texts=() if found else (few,),
            plots=(*tuned.plots(record, study, found), *curves),
        ),
        Section(_TRIALS, "All trials", tables=(table,)),
    ]


def best_run(record: StudyRecord) -> Run:
    """The complete run with the lowest loss."""
    return record.best_arms[0].complete[0]


def whole_configuration(record: StudyRecord) -> str | None:
    """What the best trial trained, as a file for `python -m model`; None of a trial that was added."""
    config = best_run(record).config
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else None


def trials_table(record: StudyRecord) -> Table:
    """A row a trial, best first, then those that did not finish; every value that was searched has a column."""
    keys = list(record.definition.space.parameters)
    shorts = [short_key(key) for key in keys]
    names = [key if shorts.count(short) > 1 else short for key, short in zip(keys, shorts, strict=True)]
    beside = record.baseline is not None
    baseline = _loss(record.arm(record.baseline or ""))
    rows = []
    for run in sorted(record.runs, key=_order):
        loss = run.metrics.get(LOSS)
        gap = loss - baseline if run.complete and loss is not None and baseline is not None else None
        rows.append(
            (
                str(run.trial),
                _ended(run),
                numbers.number(loss, decimals=numbers.LOSS),
                *(
                    [numbers.NONE if record.baseline == run.arm else numbers.difference(gap)]
                    if beside
                    else []
                ),
                *(shown_number(run.values[key]) if key in run.values else numbers.NONE for key in keys),
                numbers.number(run.metrics.get("seconds"), decimals=1),
            )
        )
    compared = ["minus baseline"] if beside else []
    headings = ("trial", "ended", record.words.metric, *compared, *names, "seconds")
    notes = (
        f"{'As the training code yields it' if record.own_code else _MEASURED}; of a trial that did not finish at its "
        f"last rung, so after a shorter training. {numbers.NONE}: none, or not a parameter of that trial. "
        "`metrics.csv` has every digit.",
    )
    return Table(_TRIALS, "All trials, best first", headings, tuple(rows), notes)


def _order(run: Run) -> tuple[float, ...]:
    """The complete ones, and then those that came farther; the best of these first."""
    loss = run.metrics.get(LOSS)
    passed = 0 if run.complete else -len(run.curve)
    return not run.complete, passed, math.inf if loss is None else loss, run.trial


def _ended(run: Run) -> str:
    """Without a reason, which may be a long one: those of what failed stand in a section of their own."""
    if run.complete or run.added:
        return run.ended
    return run.ended.partition(", ")[0] if run.state == "pruned" else run.state


def _best(record: StudyRecord, noise: Noise | None, folder: str) -> Section:
    best, run = record.best_arms[0], best_run(record)
    changed = _changes(record, run)
    texts = [_headline(record, best), _of_noise(record, best, noise)]
    complete = len(record.best_arms)
    if complete > 1 and not noise:
        flattered = (
            f"The lowest of {complete} was picked by this very {record.words.shown_loss}, which flatters it."
        )
        evaluate = _code(verb("evaluate", "--study", record.name))
        asked = "Fresh data" if record.own_code else f"The held-out titles ({evaluate})"
        texts.append(f"{flattered} {asked} would tell how good it is.")
    if changed:
        lines = yaml.safe_dump({"fixed": changed}, sort_keys=False, allow_unicode=True).rstrip().splitlines()
        notes = ["What it changes in the base file, for `fixed:` in a `study.yaml`."]
    else:
        lines, notes = [], ["Its values are those of the base file."]
    if run.config:
        path = f"{folder}/{BEST_FILE}"
        train = _code(f".venv/bin/python -m model --config {shlex.quote(path)}")
        again = "" if record.own_code else f"; {train} trains it once more"
        notes.append(f"The whole configuration is in {_code(path)}{again}.")
    return Section(
        "answer", "Best configuration", texts=tuple(texts), commands=tuple(lines), notes=tuple(notes)
    )


def _headline(record: StudyRecord, best: Arm) -> str:
    loss, baseline = _loss(best), record.arm(record.baseline or "")
    assert loss is not None, "the best has a complete run"
    number = f"{loss:.{numbers.LOSS}f}{record.words.in_unit}"
    said = f"Trial {best.complete[0].trial} has the lowest {record.words.sentence}, {number}"
    other = _loss(baseline)
    if baseline is best:
        return f"{said}: that is the baseline itself."
    if other is None and baseline is not None:
        run = baseline.runs[0]
        return f"{said}. The baseline, trial {run.trial}, has no whole run to compare it with: {run.ended}."
    if other is None:
        return f"{said}. There is no baseline to compare it with."
    gap = loss - other
    return f"{said}: {numbers.difference(gap)} against the baseline's {other:.{numbers.LOSS}f}" + (
        f" ({abs(gap / other):.1%} {'lower' if gap < 0 else 'higher'})." if other else "."
    )


def noise_not_measured(record: StudyRecord) -> str:
    """What to say in its place: of the built-in GPT how large it was elsewhere."""
    return "The noise between seeds was not measured here." + ("" if record.own_code else _NOISE_ELSEWHERE)


def _of_noise(record: StudyRecord, best: Arm, noise: Noise | None) -> str:
    """What a seed alone changes, beside the difference."""
    if noise is None:
        return f"Every trial has one seed. {noise_not_measured(record)}"
    other = _loss(record.arm(record.baseline or ""))
    loss = _loss(best)
    said = (
        f"The noise between seeds, measured by {noise.confirmation} on {noise.runs} runs: a standard deviation of "
        f"{noise.sd:.{numbers.LOSS}f}, so that two single runs that differ by less than "
        f"{numbers.difference(noise.clear)} are not told apart"
    )
    if loss is not None and other is not None and loss != other and noise.sd:
        said += f"; this difference is {abs(loss - other) / noise.sd:.1f} standard deviations"
    return f"{said}. The confirmation says: {noise.sentence}."


def _whole_losses(record: StudyRecord) -> list[float]:
    losses = (run.metrics.get(LOSS) for run in record.runs if run.complete)
    return [loss for loss in losses if loss is not None]


def _changes(record: StudyRecord, run: Run) -> dict[str, Any]:
    """What the run's values change in the base file, by dotted key."""
    base = dict(leaves(record.definition.base_config.model_dump(mode="json")))
    return {key: value for key, value in run.values.items() if key not in base or not same(value, base[key])}


def _loss(arm: Arm | None) -> float | None:
    return next(iter(arm.values(LOSS).values()), None) if arm else None


def _code(text: str) -> str:
    return f"`{text}`"
