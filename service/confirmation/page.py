"""A verdict for people: tables for the terminal, Markdown and JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.errors import UserError
from service.confirmation.elimination import ERROR_RATE, MIN_SEEDS
from service.confirmation.verdict import Standing, Verdict
from service.statistics import Estimate
from service.study.definition import StudyDefinition
from service.study.design import BASELINE, arm_name
from service.text import numbers
from service.text.files import write_both
from service.text.grid import Grid
from service.text.markdown import escaped
from service.text.words import GPT, Words

_NOTES = (
    "Differences are paired by seed. Intervals are Student's t-intervals of 95 %, each on its own, of a configuration "
    "named beforehand; they cover what a new seed would change, on this corpus and split. The mean of the best is "
    "flattered, and that of one dropped early the reverse.",
    "The difference to the baseline in the first line is not flattered: at each seed it counts the configuration "
    "that the other seeds pick. Its interval is widened for the number of finalists that tie for the best "
    "(Bonferroni); where none is better than the baseline, it is below 0 in at most 2.5 % of confirmations, unless "
    "seeds were added because of what had been seen.",
    "P(best): the share of draws in which the configuration's true mean is the lowest, the means being drawn from "
    "the joint Student distribution with n − 1 degrees of freedom that has the configurations' covariance over the "
    "seeds; for two configurations it is that of the paired t-test. It takes losses to be normally distributed over "
    "seeds.",
    f"Out: worse than another one after {MIN_SEEDS} seeds or more, by t-tests of paired differences at a level shared"
    " out over all pairs and all looks; or a run of it did not finish. All others tie with the best. That a truly "
    f"best one is called worse, any of them if several are equal, happens in at most {ERROR_RATE:.0%} of "
    "confirmations, seeds added later included, where losses are normally distributed over seeds or skewed alike for"
    " all. It happens more often where one configuration alone has rare bad seeds that have not come up yet.",
    "search − re-runs: what the search measured minus the mean of the re-runs; below 0 the search was lucky "
    f"(winner's curse). The re-runs are those of the first {MIN_SEEDS} seeds, which all configurations have. The "
    "interval is that of the mean.",
)


def sentence(verdict: Verdict) -> str:
    """What has been shown, in one line."""
    best = verdict.best
    assert best, "a verdict that is shown has a best configuration"
    over = f"over {numbers.seeds(len(verdict.seeds))}"
    if verdict.ties:
        told = (
            f"a tie: {best.arm} has the lowest mean {over} and cannot be told from {', '.join(verdict.ties)}"
        )
    else:
        told = f"{best.arm} is the best {over}"
    gain = None
    if verdict.gain:
        gain = numbers.with_interval(verdict.gain, decimals=numbers.of_difference(verdict.gain))
    if best.arm == BASELINE:
        return f"{told}; no finalist has a lower mean than the baseline" + (f": {gain}" if gain else "")
    return f"{told}; " + (
        f"{gain} against the baseline" if gain else "the baseline did not finish on every seed"
    )


def notes(words: Words) -> tuple[str, ...]:
    """How the figures are to be read."""
    objective = (
        "val_loss in nats per character over the whole validation split."
        if words == GPT
        else f"{words.metric} as the study's own training code yields it."
    )
    return f"{objective} {_NOTES[0]}", *_NOTES[1:]


def tables(verdict: Verdict, words: Words = GPT) -> dict[str, Grid]:
    """Re-runs, paired differences and the search's luck, by title."""
    standings = verdict.standings
    reruns = (
        (s.arm, str(len(s.losses)), numbers.mean_and_sd(s.rerun), _probability(s), _standing(s, verdict))
        for s in standings
    )
    paired = (
        (s.arm, _difference(s.to_baseline), _mean_and_sd(s.to_best) if s.to_best else numbers.NONE)
        for s in standings
    )
    luck = (
        (s.arm, numbers.number(s.search_loss), _difference(s.curse))
        for s in standings
        if s.search_loss is not None
    )
    return {
        f"re-runs, {words.metric} ± sd over seeds": Grid(
            ("configuration", "seeds", words.metric, "P(best)", ""), tuple(reruns)
        ),
        "paired differences": Grid(
            ("configuration", "minus the baseline (95 % interval)", "minus the best ± sd"), tuple(paired)
        ),
        "winner's curse": Grid(("configuration", "search", "search − re-runs (95 % interval)"), tuple(luck)),
    }


def configurations(definition: StudyDefinition) -> dict[str, str]:
    """What each arm of a confirmation changes in the base file, as a line."""
    cells = dict(zip(definition.arms, definition.cells, strict=True))
    return {
        arm: "the base file as it is" if arm == BASELINE else arm_name(cell) for arm, cell in cells.items()
    }


def lines(verdict: Verdict, definition: StudyDefinition) -> list[str]:
    """A line for each configuration, in the verdict's order: what it changes, and why it is out."""
    arms = configurations(definition)
    return [f"{s.arm}: {arms[s.arm]}" + (f"; out: {s.out}" if s.out else "") for s in verdict.standings]


def write(
    verdict: Verdict, definition: StudyDefinition, confirms: Mapping[str, Any], folder: Path
) -> tuple[Path, Path]:
    """The verdict as `confirmation.md` and `confirmation.json` in `folder`. Raises UserError: it cannot be written."""
    parts = [f"# Confirmation of study {confirms['study']}\n", f"**{escaped(sentence(verdict))}**\n"]
    parts += [
        f"## {title}\n\n{grid.as_markdown()}" for title, grid in tables(verdict, definition.words).items()
    ]
    parts.append(
        "## Configurations\n\n" + "".join(f"- {escaped(line)}\n" for line in lines(verdict, definition))
    )
    parts += [f"{note}\n" for note in notes(definition.words)]
    content = {
        "study": confirms["study"],
        "confirmation": definition.name,
        "verdict": sentence(verdict),
        "best": verdict.best.arm if verdict.best else None,
        "ties": verdict.ties,
        "gain": asdict(verdict.gain) if verdict.gain else None,
        "seeds": verdict.seeds,
        "search": confirms["finalists"],
        "configurations": configurations(definition),
        "standings": [asdict(standing) | {"tied": standing.tied} for standing in verdict.standings],
        "notes": notes(definition.words),
    }
    try:
        return write_both(folder, "confirmation", "\n".join(parts), content)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None


def _standing(standing: Standing, verdict: Verdict) -> str:
    if standing.out is not None:
        return "out"
    if standing is verdict.best:
        return "best of a tie" if verdict.ties else "best"
    return "tied with the best"


def _probability(standing: Standing) -> str:
    return numbers.NONE if standing.probability_best is None else f"{standing.probability_best:.3f}"


def _mean(estimate: Estimate | None) -> str:
    return (
        numbers.NONE
        if estimate is None
        else numbers.number(estimate.mean, decimals=numbers.of_difference(estimate))
    )


def _mean_and_sd(estimate: Estimate) -> str:
    return numbers.mean_and_sd(estimate, decimals=numbers.of_difference(estimate))


def _difference(estimate: Estimate | None) -> str:
    """`-0.0160 (-0.0182 to -0.0138)`."""
    if estimate is None or not estimate.interval:
        return _mean(estimate)
    return f"{_mean(estimate)} ({numbers.interval(estimate, decimals=numbers.of_difference(estimate))})"
