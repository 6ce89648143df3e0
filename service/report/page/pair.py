"""Two studies, or two arms, on one page: can they be compared, which is better, and what did each cost?"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from model.errors import UserError
from service.report.figures import pair as figures
from service.report.page import budgets, html_page
from service.report.page.html_page import Section
from service.report.page.search import noise_not_measured
from service.report.page.sections import told_apart
from service.report.record import comparison
from service.report.record.pair import Pair, Side, configurations, data_and_settings
from service.statistics import differences, estimate, mean
from service.study.search_space import leaves
from service.text import numbers
from service.text.commands import verb
from service.text.tables import Table

_MEASURED = {
    "bits_per_byte": ("bits/byte", numbers.LOSS),
    "parameters": ("parameters", None),
    "tokens": ("training tokens", None),
    "step": ("steps", None),
    "seconds": ("seconds", 1),
}
"""What they are called, and their decimals."""


def write(pair: Pair, file: Path) -> None:
    """Write the page. Raises UserError: it cannot be written."""
    of = f"{pair.first.record.name}: " if pair.one_study else ""
    title = f"{of}{pair.first.label} beside {pair.second.label}"
    question = " / ".join(dict.fromkeys(side.record.question for side in (pair.first, pair.second)))
    html = html_page.render(title, question, sections(pair))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written: {error.strerror or error}; --html names another file"
        ) from None


def sections(pair: Pair) -> list[Section]:
    """Of the page, in the order of reading."""
    found = [_standing(pair), _answer(pair)]
    names = dict.fromkeys(side.record.name for side in (pair.first, pair.second))
    if not (pair.first.named or pair.second.named or pair.one_study):
        found += _history(pair)
    found += [
        Section("curves", "While they train", plots=figures.curves(pair)),
        *_equal_budgets(pair),
        Section("repeat", "Each by itself", commands=tuple(verb("report", name) for name in names)),
    ]
    return [section for section in found if section.plots or section.id != "curves"]


def for_terminal(pair: Pair) -> list[Table]:
    """The page's first tables, those that have rows."""
    return [table for table in (what_differs(pair), configuration(pair), outcome(pair)) if table.rows]


def verdict(pair: Pair) -> str:
    """Whether the losses can be compared, in a sentence."""
    if pair.apart is not None:
        return f"Their losses cannot be compared: {pair.apart}."
    if pair.first.record.own_code:
        return "They can be compared: the same training code, and the same metric."
    return "Their losses can be compared: the same validation titles, evaluated alike."


def what_differs(pair: Pair) -> Table:
    """What is not the same in the two studies."""
    return _table("differs", "What differs", pair, data_and_settings(pair))


def configuration(pair: Pair) -> Table:
    """What is not the same in the two configurations."""
    rows = configurations(pair)
    notes = (f"{numbers.NONE}: without effect there.",) if any(numbers.NONE in row for row in rows) else ()
    return _table("configuration", "Where their configurations differ", pair, rows, notes, arms=True)


def outcome(pair: Pair) -> Table:
    """What each has come to, and at what cost."""
    sides = (pair.first, pair.second)
    losses = [estimate(list(side.losses.values())) for side in sides]
    rows = [
        ("runs", *map(_runs, sides)),
        (pair.words.metric, *(numbers.mean_and_sd(loss, decimals=numbers.LOSS) for loss in losses)),
    ]
    if any(loss and loss.interval for loss in losses):
        shown = (numbers.interval(loss, decimals=numbers.LOSS) for loss in losses)
        rows.append(("its 95 % interval", *shown))
    for metric, (name, decimals) in _MEASURED.items():
        values = [estimate(list(side.arm.values(metric).values())) if side.arm else None for side in sides]
        if any(values):
            means = (value.mean if value else None for value in values)
            name = pair.words.of_budget(name)
            rows.append((name, *(numbers.number(value, decimals=decimals) for value in means)))
    seconds = "seconds as they passed on the machine that trained."
    unit = pair.words.metric_unit
    notes = (f"Losses in {unit}, {seconds}" if unit else seconds.capitalize(),)
    return _table("outcome", "What each has come to", pair, tuple(rows), notes, arms=True)


def _table(
    id_: str,
    title: str,
    pair: Pair,
    rows: tuple[tuple[str, ...], ...],
    notes: tuple[str, ...] = (),
    *,
    arms: bool = False,
) -> Table:
    sides = (pair.first, pair.second)
    names = [side.shown_name if arms else side.label for side in sides]
    return Table(id_, title, ("", *names), rows, notes)


def _runs(side: Side) -> str:
    runs = side.arm.runs if side.arm else ()
    complete = sum(run.complete for run in runs)
    return str(complete) if complete == len(runs) else f"{complete} of {len(runs)}"


def _standing(pair: Pair) -> Section:
    table, standing = what_differs(pair), verdict(pair)
    apart = "Each is shown by itself: a loss of the one says nothing about a loss of the other."
    texts = [standing] if pair.apart is None else [apart]
    if pair.one_study:
        texts.append("Both are of one study: what differs is their configurations alone.")
    elif not table.rows:
        texts.append("The two studies differ in nothing but their trials.")
    warnings = () if pair.apart is None else (standing,)
    tables = (replace(table, notes=("What is not listed is the same in both.",)),) if table.rows else ()
    return Section("standing", "Can they be compared?", warnings=warnings, texts=tuple(texts), tables=tables)


def sentences(pair: Pair) -> Iterator[str]:
    """Which is better, by how much, and whether that may be chance; nothing where they cannot be compared."""
    sides = (pair.first, pair.second)
    missing = [side.label for side in sides if not side.losses]
    if missing:
        yield f"No complete trial yet: {', '.join(missing)}."
    if missing or pair.apart is not None:
        return
    means = {side: mean(side.losses.values()) or 0.0 for side in sides}
    better, worse = sorted(sides, key=lambda side: means[side])
    gap = means[worse] - means[better]
    at = {side: f"{means[side]:.{numbers.LOSS}f}" for side in sides}
    loss, share = pair.words.shown_loss, f" ({gap / means[worse]:.1%})" if means[worse] > 0 else ""
    if not gap:
        yield f"{_begins(better.shown_name)} and {worse.shown_name} have the same {loss}, {at[better]}."
    else:
        yield (
            f"{_begins(better.shown_name)} has the lower {loss}: {at[better]}{pair.words.in_unit}, "
            f"{numbers.difference(gap)} less than {worse.shown_name} with {at[worse]}{share}."
        )
    yield from _chance(better, worse, gap)
    if not all(side.named for side in sides):
        of = " and ".join(_complete(side) for side in sides if not side.named)
        yield f"The best of {of} was picked by this very {loss}, which flatters it."
    tokens = [mean(side.arm.values("tokens").values()) or 0.0 for side in sides if side.arm]
    if max(tokens) > min(tokens) * (1 + comparison.SLACK):
        shown = " and ".join(f"{each:,.0f}" for each in tokens)
        at_equal = "" if pair.first.record.own_code else ": the page has tables at equal budgets"
        yield f"They were trained on {shown} {pair.words.budget}{at_equal}."


def confirmations(pair: Pair) -> list[str]:
    """Commands that would tell better from luckier: of searches whose best is compared and was not confirmed."""
    if pair.apart is not None:
        return []
    sides = (pair.first, pair.second)
    names = [
        side.record.name
        for side in sides
        if side.losses and side.record.tuned and not side.named and not side.noise
    ]
    return [verb("confirm", name) for name in dict.fromkeys(names)]


def _begins(name: str) -> str:
    """As a sentence begins; the name of a study or an arm stays as it is."""
    return name.replace("trial ", "Trial ", 1) if name.startswith("trial ") else name


def _complete(side: Side) -> str:
    count = len(side.record.states.get("complete", ()))
    return f"{count} complete trial{'s' if count != 1 else ''} of {side.label}"


def _chance(better: Side, worse: Side, gap: float) -> Iterator[str]:
    """What seeds alone may have done to the difference."""
    if len(better.losses) == len(worse.losses) == 1:
        yield from _of_single_runs(better, worse, gap)
        return
    found = estimate(list(differences(better.losses, worse.losses).values()))
    if found is None:
        yield "They share no seed, so that there is no interval of their difference."
        return
    yield f"Seed by seed: {numbers.with_interval(found, decimals=numbers.of_difference(found))}."
    if found.interval:
        yield told_apart(found)


def _of_single_runs(better: Side, worse: Side, gap: float) -> Iterator[str]:
    measured = [side.noise for side in (better, worse) if side.noise]
    if not measured:
        yield f"Each is one run on one seed. {noise_not_measured(better.record)}"
        return
    noise = max(measured, key=lambda each: each.sd)
    told = "more than that" if gap > noise.clear else "no more than that, and may be chance"
    yield (
        f"Each is one run on one seed. On {noise.runs} runs of {noise.confirmation} seeds alone changed a loss by a "
        f"standard deviation of {noise.sd:.{numbers.LOSS}f}, so that two single runs that differ by less than "
        f"{numbers.difference(noise.clear)} are not told apart. This difference is {told}."
    )
    said = {side.record.name: side.noise.sentence for side in (better, worse) if side.noise}
    for name, sentence in said.items():
        yield f"The confirmation of {name} says: {sentence}."


def _answer(pair: Pair) -> Section:
    rows = configuration(pair)
    named = pair.first.named and pair.second.named
    title = "Which is better" if named else "The best of each"
    unknown = [side.label for side in (pair.first, pair.second) if side.arm and side.config is None]
    notes = [f"The configuration of the best of {', '.join(unknown)} is not known."] if unknown else []
    lines: list[str] = []
    if rows.rows and pair.second.config:
        there = dict(leaves(pair.second.config.model_dump(mode="json")))
        changed = {key: there[key] for key, *_ in rows.rows}
        lines = yaml.safe_dump({"fixed": changed}, sort_keys=False, allow_unicode=True).rstrip().splitlines()
        notes.append(f"These lines make {pair.second.shown_name} out of {pair.first.shown_name}.")
    elif pair.first.config and pair.second.config:
        notes.append("Their configurations are the same.")
    if commands := confirmations(pair):
        notes.append(f"Better, or luckier? {' and '.join(f'`{each}`' for each in commands)} would tell.")
    return Section(
        "answer",
        title,
        texts=tuple(sentences(pair)),
        tables=tuple(table for table in (rows, outcome(pair)) if table.rows),
        commands=tuple(lines),
        notes=tuple(notes),
    )


def _history(pair: Pair) -> list[Section]:
    plot = figures.history_plot(pair)
    if plot is None:
        return []
    sides = (pair.first, pair.second)
    points = [figures.history(side.record) for side in sides]
    spent = min(of[-1][0] for of in points)
    rows = []
    for side, of in zip(sides, points, strict=True):
        by_then = [loss for tokens, loss in of if tokens <= spent]
        rows.append(
            (
                side.label,
                side.record.shown_states,
                f"{of[-1][0]:,}",
                f"{of[-1][1]:.{numbers.LOSS}f}",
                f"{by_then[-1]:.{numbers.LOSS}f}" if by_then else numbers.NONE,
            )
        )
    unit = pair.words.budget
    headings = (
        "",
        "trials",
        f"training {unit} in all",
        f"best {pair.words.metric}",
        f"best after {spent:,} {unit}",
    )
    table = Table("spent", "What each found for what it spent", headings, tuple(rows))
    return [Section("history", "What each has found, and for how much", plots=(plot,), tables=(table,))]


def _equal_budgets(pair: Pair) -> Iterator[Section]:
    both = pair.as_one_study()
    if pair.apart is None and len(both.arms) > 1:
        yield Section("budgets", "Equal budgets", tables=tuple(budgets.tables(both)))
