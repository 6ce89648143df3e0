"""What `evaluate.py` does: a study's best checkpoints, or its confirmed winner and the baseline, on held-out titles."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from model.data.files import scratch
from model.errors import UserError
from model.hardware import device
from service.confirmation.confirm import CONFIRMED, refuse_confirmation
from service.held_out import best
from service.held_out import confirmed as held_out_confirmed
from service.settings import Settings
from service.storage.opened_study import open_study
from service.storage.ownership import generation_of
from service.storage.studies import CONFIRMS, StudyError, corpus_facts
from service.text import terminal
from service.text.commands import verb


def score_best(settings: Settings, study: str, *, top: int, folder: Path, console: Console) -> None:
    """Show and write the best `top` checkpoints of a study on its held-out titles.

    Raises:
        UserError: there is nothing to score, or no place to write it to.
    """
    opened = open_study(settings, study)
    opened.definition.gpt_config("scoring on held-out titles")
    loaded = opened.study
    scores = best.evaluate(
        loaded,
        opened.store,
        opened.corpus,
        top=top,
        device=device.choose(settings.device),
    )
    paths = _write(
        loaded,
        folder,
        lambda aside: best.write(scores, aside, _facts(loaded)),
        trials=[score.trial for score in scores],
    )
    console.print(best.table(scores).as_rich(f"study {study}, held-out titles, nats per character"))
    for score in scores:
        _show_titles(console, f"trial {score.trial}", score.titles)
    console.print(f"\n{_times_read(loaded)}")
    advice = _advice(loaded)
    if advice:
        terminal.say(console, advice)
    _say_written(console, paths)


def score_confirmed(settings: Settings, study: str, *, folder: Path, console: Console) -> None:
    """Show and write the confirmed winner of a study and its baseline on the held-out titles.

    Raises:
        UserError: the study has no confirmation, or its checkpoints cannot be read, or there is no place to write to.
    """
    opened = open_study(settings, study)
    opened.definition.gpt_config("scoring on held-out titles")
    search = opened.study
    refuse_confirmation(search)
    if CONFIRMED not in search.user_attrs:
        raise StudyError(f"study {study!r} has no confirmed winner; first: {_confirm(study)}")
    confirmed: Mapping[str, Any] = search.user_attrs[CONFIRMED]
    confirmation = opened.other(confirmed["study"]).study
    # of a winner that was recorded before studies had generations, the name says it all
    if confirmed.get("generation", generation_of(confirmation)) != generation_of(confirmation):
        raise StudyError(
            f"study {study!r}: the confirmation that found its winner is gone, and {confirmed['study']!r} is another "
            f"one; again: {_confirm(study)}"
        )
    scores = held_out_confirmed.evaluate(
        confirmation,
        confirmed,
        opened.store,
        opened.corpus,
        device=device.choose(settings.device),
    )
    facts = _facts(search) | {"confirmation": confirmation.study_name}
    paths = _write(
        search,
        folder,
        lambda aside: held_out_confirmed.write(scores, aside, facts),
        confirmation=confirmation.study_name,
        trials={arm.arm: arm.trials for arm in (*scores.arms, *scores.stand_ins)},
    )
    for title, grid in held_out_confirmed.tables(scores).items():
        console.print(grid.as_rich(title))
    for arm in scores.arms:
        _show_titles(console, arm.arm, arm.titles)
    console.print()
    terminal.say(console, held_out_confirmed.sentence(scores))
    console.print(_times_read(search))
    _say_written(console, paths)


def _advice(study: optuna.Study) -> str | None:
    """What to do before the best of a search is called a winner; None for a confirmation."""
    name = study.study_name
    if CONFIRMS in study.user_attrs:
        return None
    if CONFIRMED not in study.user_attrs:
        return f"the winner of study {name} is not confirmed, and may be a lucky one: {_confirm(name)}"
    winner = study.user_attrs[CONFIRMED]["arm"]
    command = verb("evaluate", "--study", name, "--confirmed")
    return f"confirmed winner: {winner}; against the baseline, over seeds: {command}"


def _confirm(study: str) -> str:
    return verb("confirm", study)


def _times_read(study: optuna.Study) -> str:
    reads = len(study.user_attrs[best.READS])
    times = "once" if reads == 1 else f"{reads} times"
    return f"the held-out split of this study has now been read {times}"


def _show_titles(console: Console, of: str, titles: Sequence[str]) -> None:
    console.print(f"\ntitles drawn from {of}:", markup=False)
    for title in titles:
        console.print(f"  {title}", markup=False, soft_wrap=True)


def _facts(study: optuna.Study) -> dict[str, Any]:
    facts = corpus_facts(study)
    return {
        "study": study.study_name,
        "source": facts["source"],
        "corpus_fingerprint": facts["fingerprint"],
        "held_out_documents": facts["documents"][2],
        "held_out_reads": len(study.user_attrs.get(best.READS, [])) + 1,  # with the one they go with
    }


def _write(
    study: optuna.Study, folder: Path, write: Callable[[Path], tuple[Path, Path]], **of: Any
) -> list[Path]:
    """The files of a reading, which counts once they are written and is seen by nobody before it counts."""
    try:
        with scratch(folder) as aside:
            written = write(aside)
            best.record_reading(study, **of)
            return [path.replace(folder / path.name) for path in written]
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _say_written(console: Console, paths: Sequence[Path]) -> None:
    for path in paths:
        terminal.say(console, f"written: {path}")
