"""What the page's sections hold, in the order of reading: the answer first, how to repeat it last."""

from collections import Counter
from collections.abc import Iterator, Sequence

import optuna

from model.config.data import TokenizerConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from service.report.figures.plots import Plot
from service.report.page import budgets, models, search, tokenizers
from service.report.page import pruning as pruning_page
from service.report.page.content import Content
from service.report.page.html_page import Section
from service.report.page.tables import LOSS
from service.report.record.noise import Noise
from service.report.record.study_record import Arm, StudyRecord
from service.settings import Settings
from service.statistics import Estimate, differences, estimate
from service.storage.ownership import own_trials
from service.storage.studies import COMMAND
from service.study.design import BASELINE
from service.text.commands import verb
from service.text.numbers import LOSS as LOSS_DECIMALS
from service.text.numbers import mean_and_sd, of_difference, seeds, with_interval
from service.text.tables import Table

_TOKENIZERS = 4
"""Measured at most: a search over vocabularies may have one a trial."""
_ELSEWHERE = ("claims", "defects", "runs", "trials", "definitions")
"""Tables that do not stand among the statistics."""
_QUOTED = "published-"
"""Begins the ids of published tables."""


def of_study(
    content: Content,
    study: optuna.Study,
    plots: Sequence[Plot],
    *,
    noise: Noise | None = None,
    folder: str = ".",
) -> list[Section]:
    """Every section but the tokenizer's, which needs the corpus; of a search what it found first.

    Args:
        content: of the report.
        study: as loaded.
        plots: the study's figures; those of a search are added here.
        noise: where a search has been confirmed.
        folder: of the page, as people name it in a command.
    """
    record = content.record
    tables = {table.id: table for table in content.tables}
    setting = Section("setting", "Question and setting", warnings=content.warnings, facts=content.facts)
    if record.tuned:
        own = search.sections(record, study, noise, plots=plots, table=tables["trials"], folder=folder)
        found = [*own, setting]
        plots = [plot for plot in plots if plot.id != search.CURVES]
    else:
        found = [Section("answer", "Answer", texts=tuple(_answer(content))), setting, *_published(content)]
    costs = tuple(table for table in content.tables if budgets.has(table))
    pruning = tuple(table for table in content.tables if pruning_page.has(table))
    statistics = tuple(
        table
        for table in content.tables
        if table.id not in _ELSEWHERE and not table.id.startswith(_QUOTED) and table not in (*costs, *pruning)
    )
    found.append(Section("statistics", "Statistics", tables=statistics, folded=record.tuned))
    if costs:
        curves = budgets.plot(record)
        drawn = (curves,) if curves else ()
        found.append(Section("budgets", "Equal budgets", tables=costs, plots=drawn, folded=True))
    title = "Further figures" if record.tuned else "Figures"
    found.append(Section("figures", title, plots=tuple(plots), folded=record.tuned))
    if content.claims:
        counts = (f"{verdicts(content)}.",)
        found.append(Section("claims", "Claims", texts=counts, claims=content.claims))
    if pruning:
        found.append(pruning_page.section(pruning))
    found += [
        *([] if record.own_code else [Section("model", "Models", tables=models.tables(record), folded=True)]),
        _failed(record),
        *([] if record.tuned else [Section("runs", "Runs", tables=(tables["runs"],))]),
        Section("definitions", "What each metric is", tables=(tables["definitions"],), folded=True),
        _repeat(record, study),
    ]
    return found


def _published(content: Content) -> Iterator[Section]:
    if content.published is None:
        return
    text = (f"Rebuilt from: {content.published.source}",)
    tables = tuple(t for t in content.tables if t.id == "defects" or t.id.startswith(_QUOTED))
    yield Section("published", "Published tables, rebuilt", texts=text, tables=tables)


def tokenizer(record: StudyRecord, corpus: Corpus, settings: Settings) -> Section:
    """The tokenizers of the base and of all arms, measured on the study's corpus.

    Raises:
        CorpusError: the cache cannot be written.
    """
    configs = [run.config for run in record.runs if run.config]
    base = record.definition.gpt_config("a tokenizer")
    wanted = [base.tokenizer, *(TokenizerConfig(**config["tokenizer"]) for config in configs)]
    blocks = {base.model.block_size, *(config["model"]["block_size"] for config in configs)}
    measured = [
        tokenizers.measure(TokenizedCorpus.prepare(corpus, kind, cache=settings.cache), block_sizes=blocks)
        for kind, _ in Counter(wanted).most_common(_TOKENIZERS)
    ]
    return Section(
        "tokenizer",
        "Tokenizer",
        texts=(
            "The vocabulary has an entry for each of the 256 bytes: no text is ever unknown, and what takes the place "
            "of an out-of-vocabulary rate is the share of validation tokens that training never showed.",
        ),
        plots=(tokenizers.plot(measured),),
        tables=(tokenizers.table(measured, corpus),),
        folded=True,
    )


def told_apart(gap: Estimate) -> str:
    """Whether seeds alone may have made a difference that has an interval."""
    if gap.low > 0 or gap.high < 0:
        return "The interval does not hold 0: they are told apart."
    return "The interval holds 0: on these seeds they are not told apart."


def verdicts(content: Content) -> str:
    """`5 confirmed, 2 refuted, 3 not shown here`."""
    counts = Counter(claim.verdict for claim in content.claims)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("confirmed", "refuted", "not shown here"))


def _answer(content: Content) -> Iterator[str]:
    record = content.record
    best = record.best_arms[0]
    over = seeds(len(best.values(LOSS)))
    yield f"Lowest {record.words.sentence}: {best.name}, {_loss(best)}{record.words.in_unit} ({over})."
    baseline = record.arm(record.baseline or "")
    if baseline is best:
        yield "That is the baseline itself." if best.name == BASELINE else "The others are compared with it."
    elif baseline and baseline.values(LOSS):
        gap = estimate(list(differences(best.values(LOSS), baseline.values(LOSS)).values()))
        difference = (
            f"a difference of {with_interval(gap, decimals=of_difference(gap))}"
            if gap
            else "they share no seed"
        )
        compared = (
            "The baseline" if baseline.name == BASELINE else f"{baseline.name}, the arm to compare with,"
        )
        yield f"{compared} has {_loss(baseline)}: {difference}."
        if gap and gap.interval:
            yield told_apart(gap)
    if len(record.best_arms) > 1:
        yield (
            f"The lowest of {len(record.best_arms)} was picked by this very {record.words.shown_loss}, which flatters "
            f"it. {'Fresh data' if record.own_code else 'The held-out titles'} would tell how good it is."
        )
    if content.claims:
        yield f"Of the documents' {len(content.claims)} claims: {verdicts(content)}."


def _loss(arm: Arm) -> str:
    return mean_and_sd(estimate(list(arm.values(LOSS).values())), decimals=LOSS_DECIMALS)


def _failed(record: StudyRecord) -> Section:
    rows = tuple(
        (str(run.trial), run.arm, str(run.seed), run.state, run.ended, f"{len(run.curve)}")
        for run in sorted(record.runs, key=lambda run: run.trial)
        if not run.complete and not (record.tuned and run.state == "pruned")  # those stand among all trials
    )
    headings = ("trial", "arm", "seed", "state", "ended", "rungs reached")
    tables = (Table("not-complete", "Trials that did not reach the end of their budget", headings, rows),)
    ended = "reached the end of its budget" + (" or was pruned" if record.tuned else "")
    texts = [] if rows else [f"Every trial that began {ended}."]
    continued = record.states.get("continued", ())
    if continued:
        texts.append(
            f"Interrupted, and resumed by another trial: {', '.join(map(str, continued))}. The trial that "
            "resumes goes on from the saved state, and is the one that is counted."
        )
    return Section("failed", "Failed, diverged, pruned", texts=tuple(texts), tables=tables if rows else ())


def _repeat(record: StudyRecord, study: optuna.Study) -> Section:
    # a study made before the storage held its command
    made_by = study.user_attrs.get(COMMAND, verb("run", "--study", record.name))
    trained = [
        trial.user_attrs["provenance"] for trial in own_trials(study) if "provenance" in trial.user_attrs
    ]
    facts = []
    for key in ("commit", "python", "machine", "device", "code" if record.own_code else "precision"):
        found = sorted({str(each[key]) for each in trained if each.get(key)})
        facts.append((key, ", ".join(found) or "not known"))
    versions = sorted(
        {f"{library} {number}" for each in trained for library, number in each.get("versions", {}).items()}
    )
    return Section(
        "repeat",
        "How to repeat it",
        texts=(
            "In a checkout of the commit below: the same commit, versions and device give the same losses bit by bit."
            if not record.own_code
            else "With the same training code, commit, versions and device; `check-run` says whether the same numbers "
            "come of that.",
        ),
        commands=(
            made_by,
            *([] if record.own_code else [verb("evaluate", "--study", record.name)]),
            verb("report", record.name),
        ),
        facts=(*facts, ("libraries", ", ".join(versions) or "not known")),
    )
