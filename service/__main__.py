"""The verbs of `python -m service`: `--help` lists them.

torch is imported only where something is trained or scored, so that the others answer at once.
"""

import json
import os
import re
import signal
import socket
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import click

from model.command_line import faults_in_one_line
from model.config import yaml_tree
from model.data.files import check_writable
from model.errors import UserError
from service import logs, output
from service.catalogue import commands as of_the_catalogue
from service.machine import places
from service.settings import HOME, MOST_TRIALS, Settings
from service.text import terminal
from service.winner import commands as of_the_winner

OVERRIDE = click.option(
    "--set", "settings_", multiple=True, metavar="KEY=VALUE", help="Change one key of the base file."
)
SCALE = click.option("--scale", metavar="NAME", help="One of the sizes that the study file has.")


class _Verbs(click.Group):
    """Shows a user's mistake, and a database's refusal, as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a UserError ends it with its status, Ctrl-C with 130. Output that fails ends nothing."""
        output.protect()
        places.share_cores()
        try:
            with faults_in_one_line():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except Exception as error:
            from service.storage import database, outages  # import Optuna

            if not outages.is_storage_error(error):
                raise
            settings = Settings.from_environment()
            click.echo(f"error: {settings.storage_shown}: {database.told(error, settings.url)}", err=True)
            ctx.exit(os.EX_TEMPFAIL if outages.is_outage(error) else 2)


@click.group(cls=_Verbs)
def cli() -> None:
    """Hyperparameter optimization for small language models."""


def _reports_folder(study: str, given: str | None) -> Path:
    """Where what is said of a study is written, unless another folder was given; it can be written to."""
    from service.study.file import checked_name

    folder = Path(given) if given else HOME / "runs" / "reports" / checked_name(study)
    try:
        check_writable(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror or error}; --out names another folder"
        ) from None
    return folder


def _trials(given: str | None) -> tuple[int | None, bool]:
    """The number, and whether it is of further trials. Raises UserError: it is none."""
    number = (given or "").removeprefix("+")
    if given and (not re.fullmatch("[0-9]{1,9}", number) or not 1 <= int(number) <= MOST_TRIALS):
        raise UserError(
            f"--trials: given {given!r}, allowed: N trials in all, or +N more, N from 1 to {MOST_TRIALS}"
        )
    return int(number) if number else None, bool(given and given.startswith("+"))


@cli.command()
@click.argument("study")
@click.option("--name", help="What to call it in the storage.")
@click.option("--trials", metavar="N", help="Trials to finish: N in all, or +N more.")
@SCALE
@OVERRIDE
def create(
    study: str, name: str | None, trials: str | None, scale: str | None, settings_: tuple[str, ...]
) -> None:
    """Make the storage's tables, the study and its slots; nothing is done twice."""
    from service.machine.create import create as create_study

    count, more = _trials(trials)
    create_study(
        Settings.from_environment(),
        study,
        name=name,
        overrides=yaml_tree.parse_overrides(settings_),
        scale=scale,
        more=count if more else None,
        total=None if more else count,
        say=click.echo,
    )


@cli.command()
@click.argument("study")
@click.option("--owner", help="A name like no other process's anywhere; made up unless given.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--parent", type=int, help="Stop when this process is gone.")
@click.option("--json", "json_lines", is_flag=True, help="Log as JSON lines.")
def work(study: str, owner: str | None, threads: int | None, parent: int | None, json_lines: bool) -> None:
    """Run trials until the study's slots are closed. SIGTERM, SIGINT and SIGHUP save and hand back.

    The status is 0 when they are closed or the trial was handed back, 2 for what only the user can mend, 75 when the
    storage stayed away; anything else is a crash.
    """
    log = logs.configure(json_lines=json_lines, study=study)
    from service.confirmation.elimination import drops
    from service.trials.worker import Worker  # imports torch

    owner = owner or f"{socket.gethostname()}:{uuid.uuid4().hex[:12]}"
    worker = Worker(
        Settings.from_environment(), study, owner=owner, threads=threads, parent=parent, drops=drops, log=log
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # under nohup
        # in a thread of its own: the lock that `stop` takes may be held by what the signal interrupts
        signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
    worker.work()


@cli.command()
@click.argument("study")
@click.option("--workers", type=click.IntRange(1), help="Processes; what suits the machine unless given.")
@click.option(
    "--create", "make", is_flag=True, help="First make the study, if it has a folder under studies/."
)
@click.option(
    "--trials", metavar="N", help="With --create: trials to finish in all; what it has unless given."
)
def workers(study: str, workers: int | None, make: bool, trials: str | None) -> None:
    """Run this machine's workers until the study's slots are closed. HPTUNE_LOG=json: log as JSON lines."""
    from service.machine.run import work as work_here

    count, more = _trials(trials)
    if trials and (more or not make):
        raise UserError(f"--trials: given {trials!r}, allowed: with --create, N trials in all, N from 1")
    settings = Settings.from_environment()
    sys.exit(work_here(settings, study, workers=workers, make=make, trials=count))


@cli.command()
@click.argument("trials", type=click.IntRange(1, MOST_TRIALS), required=False)
@click.option("--study", default="hn", show_default=True, help="Folder under studies/, or a study file.")
@click.option("--name", help="What to call it in the storage.")
@click.option(
    "--workers", type=click.IntRange(1), help="Processes; one a GPU, or one for two cores, unless given."
)
@SCALE
@OVERRIDE
def run(
    trials: int | None,
    study: str,
    name: str | None,
    workers: int | None,
    scale: str | None,
    settings_: tuple[str, ...],
) -> None:
    """Finish TRIALS more trials of a study on this machine, or all that it has left, and show the best."""
    from service.machine.run import run as run_study

    run_study(
        Settings.from_environment(),
        study,
        trials=trials,
        name=name,
        workers=workers,
        scale=scale,
        overrides=yaml_tree.parse_overrides(settings_),
        console=terminal.console(),
    )


@cli.command()
@click.argument("study")
@click.option(
    "--top", type=click.IntRange(1), help="Finalists: the best configurations of the study.  [default: 5]"
)
@click.option("--seeds", type=click.IntRange(2, 20), default=5, show_default=True, help="Re-runs of each.")
@click.option("--name", help="What to call it in the storage.  [default: STUDY-confirm]")
@click.option("--workers", type=click.IntRange(1), help="Processes, as for `run`.")
@click.option(
    "--out", type=click.Path(file_okay=False), help="Folder for confirmation.md and confirmation.json."
)
def confirm(
    study: str, top: int | None, seeds: int, name: str | None, workers: int | None, out: str | None
) -> None:
    """Re-run a study's best configurations and its baseline on fresh seeds, and say which is best."""
    from service.machine.run import confirm as confirm_study

    confirm_study(
        Settings.from_environment(),
        study,
        top=top,
        seeds=seeds,
        name=name,
        workers=workers,
        folder=_reports_folder(study, out),
        console=terminal.console(),
    )


@cli.command()
@click.argument("study")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--seconds", type=float, default=4.0, show_default=True, help="How long to measure.")
def estimate(study: str, threads: int | None, seconds: float) -> None:
    """Measure what a whole trial of the base configuration takes here, as JSON."""
    from dataclasses import asdict

    from service.machine.estimate import measure_study

    measured = measure_study(Settings.from_environment(), study, threads=threads, seconds=seconds)
    click.echo(json.dumps(asdict(measured)))
    sys.exit(1 if output.failure() else 0)


@cli.command()
@click.argument("study")
@click.option("--watch", is_flag=True, help="Keep it up to date until the study's trials are used up.")
def status(study: str, watch: bool) -> None:
    """Workers alive, trials by state, rate, time left, and the best so far."""
    from service.machine import status as status_page

    console = terminal.console()
    take_snapshot = status_page.take(Settings.from_environment(), study)
    if watch:
        status_page.watch(take_snapshot, console)
    else:
        console.print(status_page.page(take_snapshot()))
    sys.exit(1 if output.failure() else 0)


@cli.command()
@click.option("--study", default="hn", show_default=True, help="Its name in the storage.")
@click.option("--top", type=click.IntRange(1), help="How many of the best.  [default: 5]")
@click.option(
    "--confirmed",
    is_flag=True,
    help="The confirmed winner against the baseline, over the confirmation's seeds.",
)
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the Markdown and JSON files.")
def evaluate(study: str, top: int | None, confirmed: bool, out: str | None) -> None:
    """Score a study's best checkpoints, or its confirmed winner and baseline, on held-out titles."""
    if confirmed and top is not None:
        raise UserError(f"--top: given {top}, has no effect with --confirmed: winner and baseline are scored")
    from service.held_out import scoring  # imports torch

    settings, folder = Settings.from_environment(), _reports_folder(study, out)
    console = terminal.console()
    if confirmed:
        scoring.score_confirmed(settings, study, folder=folder, console=console)
    else:
        scoring.score_best(settings, study, top=top or 5, folder=folder, console=console)


@cli.command()
@click.argument("study")
@click.option("--scale", metavar="NAME", help="The scale it was run at.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the report.")
@click.option("--result", type=click.Path(dir_okay=False), help="Write the JSON there as well.")
def report(study: str, scale: str | None, out: str | None, result: str | None) -> None:
    """Write a study's report: a page, Markdown, JSON, CSV and figures."""
    from service.report.page import files, sections
    from service.storage.database import open_storage
    from service.storage.studies import load_study
    from service.study.file import checked_name

    settings = Settings.from_environment()
    name = checked_name(f"{study}-{scale}" if scale else study)
    folder = _reports_folder(name, out)
    loaded, definition = load_study(open_storage(settings), name, settings)
    written = files.write(
        loaded, definition, settings, folder=folder, result=Path(result) if result else None
    )
    if written.content.claims:
        click.echo(f"claims: {sections.verdicts(written.content)}")
    for path in written.paths:
        click.echo(f"written: {path}")


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option(
    "--published-on-loopback",
    envvar="HPTUNE_DASHBOARD_PUBLISHED_ON_LOOPBACK",
    is_flag=True,
    help="In a container whose port is published on the host's 127.0.0.1 only: any --host without a password.",
)
@click.option(
    "--wait",
    envvar="HPTUNE_DASHBOARD_WAIT",
    is_flag=True,
    help="Wait for a storage that is away, or that has no study yet.",
)
def dashboard(host: str, port: int, published_on_loopback: bool, wait: bool) -> None:
    """Serve the studies, their trials and artifacts to a browser.

    HPTUNE_DASHBOARD_PASSWORD, or the file HPTUNE_DASHBOARD_PASSWORD_FILE, is asked for (user hptune) when it
    is set, and has to be for a --host beyond this machine.
    """
    from service.dashboard.serve import read_password, serve

    serve(
        Settings.from_environment(),
        host=host,
        port=port,
        password=read_password(),
        published_on_loopback=published_on_loopback,
        wait=wait,
        say=click.echo,
    )


for command in (*of_the_winner.COMMANDS, *of_the_catalogue.COMMANDS):
    cli.add_command(command)

if __name__ == "__main__":
    cli(prog_name="python -m service")
