"""What people read in the dashboard: the note of a study and the note of a trial, as Markdown.

The dashboard renders Markdown without HTML, and its content security policy loads no image from elsewhere.
Here, what comes from outside (questions, sources of corpora, generated titles, messages) is escaped besides, so
that it reads as it was written.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from model.measurement.evaluation_record import Evaluation
from service.dashboard.state import BEGIN, END
from service.study.definition import StudyDefinition
from service.study.run_config import Evaluated
from service.text.commands import verb
from service.text.markdown import escaped, fenced
from service.text.quantities import shown_params
from service.text.words import GPT, Words

INTERRUPTED = "interrupted"
RESUMABLE = "interrupted, its state is saved: another trial resumes it, which counts in its place. No failure"
PAUSED = "; it may go on from there. Shown as pruned, it was not promoted"
"""What follows where a trial waits: its note is not written again if it is ended there."""


def study_note(definition: StudyDefinition, facts: Mapping[str, Any], *, command: str) -> str:
    """The note of a study.

    Args:
        definition: the study.
        facts: of its corpus or its own training code, as `service.machine.create` stores them.
        command: what made it.
    """
    rows = _of_corpus(definition, facts) if definition.own_run is None else _of_own_code(definition, facts)
    rows["varied"] = ", ".join(escaped(key) for key in definition.space.parameters) or "nothing"
    if definition.cells:
        rows["configurations"] = f"{len(definition.cells)}, a fixed list"
    else:
        rows["sampler"] = _settings(definition.sampler.model_dump(mode="json"))
    rows["pruner"] = _settings(definition.pruner.model_dump(mode="json"))
    containers = "--docker" in command.split()
    evaluate = verb("evaluate", "--study", definition.name, containers=containers)
    commands = f"{command}\n{evaluate}   # the best on held-out titles"
    if definition.own_run is not None:
        commands = f"{command}\n{verb('report', definition.name, containers=containers)}"
    state = f"{BEGIN}\n\n**State:** made, no trial has begun. **Next:**\n\n{fenced(commands, 'sh')}\n{END}"
    return f"**{escaped(definition.question)}**\n\n{state}\n\n{_table(rows)}"


def _of_corpus(definition: StudyDefinition, facts: Mapping[str, Any]) -> dict[str, str]:
    train, validation, held_out = facts["documents"]
    budget_tokens, train_tokens = facts["budget_tokens"], facts["train_tokens"]
    rungs = definition.base_config.rung_count
    return {
        "objective": "val\\_loss, nats per character over the whole validation split; lower is better",
        "corpus": escaped(facts["source"]),
        "fingerprint": escaped(facts["fingerprint"]),
        "documents": f"{train:,} train, {validation:,} validation, {held_out:,} held-out; "
        f"{facts['duplicates_dropped']:,} duplicates dropped",
        "budget of a trial": f"{budget_tokens:,} training tokens, {budget_tokens / train_tokens:.3g} times the "
        f"train split; {rungs} rungs{', unless its arm has its own' if definition.own_budgets else ''}",
    }


def _of_own_code(definition: StudyDefinition, facts: Mapping[str, Any]) -> dict[str, str]:
    words = definition.words
    return {
        "objective": f"{escaped(words.metric)}; lower is better",
        "trains": escaped(facts["source"]),
        "fingerprint of the code": escaped(facts["fingerprint"]),
        "budget of a trial": f"{facts['budget_tokens']:,} {words.budget}; {definition.base_config.rung_count} rungs",
    }


def trial_note(
    *,
    ended: str,
    config: Mapping[str, Any],
    last: Evaluated | None,
    facts: Mapping[str, str],
    changes: Mapping[str, Any] | None = None,
    titles: Sequence[str] = (),
    curve: str | None = None,
    words: Words = GPT,
) -> str:
    """The note of a trial.

    Args:
        ended: why it ended, for people.
        config: what it trained; empty where it came to nothing.
        last: its last evaluation; None where it came to none.
        changes: what it has other than the base file of its study, where that is known.
        facts: further rows of its table: device, memory and the like.
        titles: drawn from the trained model.
        curve: the address of its curve as an image of the dashboard's own.
        words: of the study.
    """
    shown = f"{ended}{PAUSED}" if ended.startswith("paused") else ended
    rows = {"ended": escaped(RESUMABLE if ended == INTERRUPTED else shown)}
    if changes is not None:
        rows["changes"] = (
            escaped(shown_params(changes)) if changes else "nothing: it is the base file as it is"
        )
    if last:
        rows |= _figures(last) if isinstance(last, Evaluation) else _own_figures(last, words)
    rows |= {key: escaped(value) for key, value in facts.items()}
    parts = [_table(rows)]
    if curve:
        parts.append(f"![{escaped(words.metric) if words != GPT else words.metric} at every rung]({curve})\n")
    if titles:
        lines = "".join(f"- {escaped(title)}\n" for title in titles)
        parts.append(f"Titles drawn from the model, temperature 0.8:\n\n{lines}")
    if config:
        parts.append("---\n\nThe whole configuration:\n")
        parts.append(fenced(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), "yaml"))
    return "\n".join(parts)


def _figures(last: Evaluation) -> dict[str, str]:
    rows = {
        "val\\_loss": f"{last.val_loss:.4f} nats/char",
        "val\\_loss\\_official": f"{last.val_loss_official:.4f} nats/char, {last.coverage:.1%} of the tokens"
        if last.val_loss_official
        else "",
        "bits per byte": f"{last.bits_per_byte:.4f}",
        "nats per token": f"{last.nats_per_token:.4f}",
        "perplexity per char": f"{last.perplexity_per_char:.4f}",
        "trained": f"{last.tokens:,} tokens in {last.step:,} steps",
        "speed": f"{last.tokens_per_second:,.0f} tokens/s; {last.train_seconds:,.1f} s training, "
        f"{last.evaluation_seconds:,.1f} s evaluation",
    }
    return {key: value for key, value in rows.items() if value}


def _own_figures(last: Evaluated, words: Words) -> dict[str, str]:
    """Of an evaluation of the user's own training code."""
    fields = last.as_dict()
    others = {name: value for name, value in fields.items() if name.startswith("metrics/")}
    return {
        escaped(words.metric): f"{last.val_loss:.4f}",
        **{escaped(name.removeprefix("metrics/")): f"{value:.4g}" for name, value in others.items()},
        "trained": f"{last.tokens:,} {words.budget}",
        "time": f"{fields['train_seconds']:,.1f} s, evaluations included",
    }


def _settings(section: Mapping[str, Any]) -> str:
    given = [f"{key} {value}" for key, value in section.items() if key != "name" and value is not None]
    return escaped(str(section["name"]) + (f" ({', '.join(given)})" if given else ""))


def _table(rows: Mapping[str, str]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())
