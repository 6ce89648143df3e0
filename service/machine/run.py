"""A study's slots worked on by this machine's workers, and what came of it: `workers`, `run` and `confirm`."""

import contextlib
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console

from model.errors import UserError
from service import logs
from service.machine import expected_time
from service.machine import places as machine
from service.machine.create import command, create
from service.machine.leaderboard import leaderboard
from service.machine.progress import JsonLines, LiveTable, View
from service.machine.supervisor import Supervisor
from service.settings import HOME, MOST_TRIALS, Settings
from service.storage.budget import how_it_stopped
from service.storage.database import creation_lock
from service.storage.opened_study import OpenedStudy, open_study
from service.storage.outages import Patience, is_outage
from service.storage.ranking import best_so_far, count_states, ranked_trials
from service.study.device_proof import prove_device
from service.study.file import checked_name, found_in
from service.text import terminal
from service.text.commands import verb


def work(
    settings: Settings,
    study: str,
    *,
    workers: int | None,
    threads: int | None = None,
    make: bool = False,
    trials: int | None = None,
) -> int:
    """Run workers until the study's slots are closed; the exit status.

    Args:
        settings: where things are, and whether to log JSON lines in place of lines for people.
        study: its name in the storage.
        workers: processes; what suits the machine unless given.
        threads: CPU threads of each; an even share of the cores unless given.
        make: first make the study, or see that its file is what it was made from. One without a folder under
            `studies/`, such as a confirmation, is taken as it is.
        trials: with `make`, how many it shall have in all; those that it has unless given.
    """
    log = logs.configure(json_lines=settings.json_log, study=study)
    console = terminal.console()
    patience = Patience(settings.patience_seconds, stopping=threading.Event(), log=log)
    has_folder = found_in(HOME, f"studies/{checked_name(study)}").is_dir()
    if make and has_folder:
        say = log.info if settings.json_log else partial(terminal.say, console)
        study, _ = patience(
            lambda: create(settings, study, overrides={}, total=trials, as_it_is=True, say=say)
        )
    try:
        # containers name the study before it is known which one is made
        opened = open_study(settings, study, or_fallback=True, patience=patience)
    except UserError as error:
        if make and not has_folder:
            raise UserError(f"{error}; nor is {study} a folder under studies/") from None
        raise
    study, slots = opened.name, opened.slots
    places = machine.places(settings, workers=workers, threads=threads)
    gpus = sorted({place.gpu for place in places if place.gpu is not None})
    view: View
    if settings.json_log:
        log.info("workers start", workers=len(places), gpus=gpus, threads=places[0].threads)
        view = JsonLines(log)
    else:
        to_run = opened.trials_left()
        on = f"GPU {', '.join(gpus)}" if gpus else f"{places[0].threads} threads each"
        what = f"{opened.shown_left(to_run)} to {'spend' if opened.budget else 'finish'}"
        here = "1 worker" if len(places) == 1 else f"{len(places)} workers"
        terminal.say(console, f"study {study}: {what}, {here} here ({on})")
        view = LiveTable(
            study,
            workers=len(places),
            trials=None if opened.budget else to_run,
            trial_seconds=None,
            console=console,
            best=best_so_far(opened.study),
            words=opened.definition.words,
        )
    status = Supervisor(study, slots=slots, places=places, view=view).run()
    if status == 0 and not settings.json_log:
        _say_end(opened, console)
    return status


def _say_end(opened: OpenedStudy, console: Console) -> None:
    """What the trials have come to, in a line; nothing where the storage is away."""
    try:
        states, best = count_states(opened.study), best_so_far(opened.study)
    except Exception as error:
        if not is_outage(error):
            raise
        return
    shown = f"; best {opened.definition.words.metric} {best[0]:.4f}, trial {best[1]}" if best else ""
    terminal.say(console, f"study {opened.name}: {states or 'no trial'}{shown}")


def run(
    settings: Settings,
    study: str,
    *,
    trials: int | None,
    name: str | None,
    workers: int | None,
    scale: str | None,
    overrides: Mapping[str, Any],
    console: Console,
) -> None:
    """Finish trials of a study and show its best.

    Args:
        settings: where things are.
        study: its file, as `service.machine.create.create` takes it; so are `name`, `scale` and `overrides`.
        trials: how many more, from now on; all that it has left unless given.
        name: what it is called in the storage.
        workers: processes; what suits the machine unless given.
        scale: one of the file's.
        overrides: of the base file.
        console: shows it all.

    Raises:
        SystemExit: workers failed, or it was interrupted.
        UserError: something given cannot be used.
    """
    study_name, definition = create(
        settings,
        study,
        name=name,
        overrides=overrides,
        scale=scale,
        more=trials,
        workers_here=True,
        say=lambda line: terminal.say(console, line),
    )

    def rest(left: int) -> str:
        again = command(study, name, left if trials else None, {}, scale)
        return f"to finish them: {again}" + (f" --workers {workers}" if workers else "")

    study_of = _finish(settings, study_name, workers=workers, rest=rest, console=console).study
    best = ranked_trials(study_of)[:10]
    console.print(
        f"study {study_name}: {count_states(study_of)}; kept checkpoints: {definition.keep_checkpoints}"
    )
    if stopped := how_it_stopped(study_of.user_attrs):
        terminal.say(console, stopped)
    if best:
        words = definition.words
        console.print(leaderboard(best, words).as_rich(words.best_trials))
        if definition.own_run is None:
            terminal.say(
                console, f"evaluate the best on held-out titles: {verb('evaluate', '--study', study_name)}"
            )
        terminal.say(console, f"all of it as a page: {verb('report', study_name)}")


def go_on(
    settings: Settings, name: str, *, trials: int | None, workers: int | None, console: Console
) -> OpenedStudy:
    """Finish trials of a study that is there, whatever has become of its file; the study.

    The arguments are those of `run`, `name` its name in the storage.

    Raises:
        SystemExit: workers failed, or it was interrupted.
        UserError: there is no such study, or something given cannot be used.
    """
    if trials is not None and not 1 <= trials <= MOST_TRIALS:
        raise UserError(f"trials: given {trials}, allowed: 1 to {MOST_TRIALS}")
    with creation_lock(settings), contextlib.closing(open_study(settings, name)) as opened:
        prove_device(opened.definition, machine.device_type(settings))
        if trials is not None:
            opened.more(trials)
    rest = partial("to finish them: run({})".format)
    return _finish(settings, name, workers=workers, rest=rest, console=console)


def confirm(
    settings: Settings,
    study: str,
    *,
    top: int | None,
    seeds: int,
    name: str | None,
    workers: int | None,
    folder: Path,
    console: Console,
) -> None:
    """Re-run a study's finalists and its baseline on fresh seeds, and say which is best.

    The arguments are those of `service.confirmation.confirm.prepare` and of `run`; `folder` is for the verdict's files.

    Raises:
        SystemExit: workers failed, or it was interrupted.
        UserError: something given cannot be used.
    """
    # imported here: their statistics take half a second, which `run` and `workers` have no use for
    from service.confirmation import confirm as confirmation
    from service.confirmation import page

    name, definition = confirmation.prepare(
        settings, study, top=top, seeds=seeds, name=name, say=lambda line: terminal.say(console, line)
    )
    _finish(
        settings,
        name,
        workers=workers,
        rest=lambda _left: "the same command finishes them",
        console=console,
    )
    verdict, confirms = confirmation.conclude(settings, name)
    for title, grid in page.tables(verdict, definition.words).items():
        console.print(grid.as_rich(title))
    for line in (*page.lines(verdict, definition), "", page.sentence(verdict)):
        terminal.say(console, line)
    for path in page.write(verdict, definition, confirms, folder):
        terminal.say(console, f"written: {path}")
    if definition.own_run is None:
        evaluate = verb("evaluate", "--study", study, "--confirmed")
        terminal.say(console, f"winner and baseline on held-out titles: {evaluate}")


def _finish(
    settings: Settings,
    name: str,
    *,
    workers: int | None,
    rest: Callable[[int], str],
    console: Console,
) -> OpenedStudy:
    """Run this machine's workers until the study's slots are closed; the study.

    Raises:
        SystemExit: workers failed, or it was interrupted; `rest` has said how the trials that are left are finished.
    """
    opened = open_study(settings, name)
    slots = opened.slots
    to_run = opened.trials_left()
    if not to_run:
        terminal.say(
            console, f"study {name}: {how_it_stopped(opened.study.user_attrs) or opened.shown_end()}"
        )
        return opened
    places = machine.places(settings, workers=workers)
    if len(places) > to_run and not opened.budget:
        places = machine.places(settings, workers=to_run)
    workers = len(places)
    seconds = expected_time.told(
        opened,
        to_run=to_run,
        workers=workers,
        threads=places[0].threads,
        say=partial(terminal.say, console),
    )
    view = LiveTable(
        name,
        workers=workers,
        trials=None if opened.budget else to_run,
        trial_seconds=seconds,
        console=console,
        best=best_so_far(opened.study),
        words=opened.definition.words,
    )
    status = Supervisor(name, slots=slots, places=places, view=view).run()
    if status:
        _say_what_is_left(opened, rest, console)
        sys.exit(status)
    return opened


def _say_what_is_left(opened: OpenedStudy, rest: Callable[[int], str], console: Console) -> None:
    try:
        left, leased = opened.trials_left(), opened.slots.counts()["leased"]
    except sa.exc.SQLAlchemyError:
        terminal.say(console, "the storage is away; what is left is not known")
        return
    how = "other workers are at work on them" if leased else rest(left)
    if left:
        are = "is" if left == 1 and not opened.budget else "are"
        terminal.say(console, f"{opened.shown_left(left)} {are} left; {how}")
