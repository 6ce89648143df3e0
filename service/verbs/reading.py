"""Verbs that measure and show what a study has come to.

torch is imported only where something is trained or scored, so that the others answer at once.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from model.errors import UserError
from service import output
from service.machine import allocation
from service.settings import Settings
from service.text import terminal
from service.verbs.options import reports_folder


@click.command()
@click.argument("study")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--seconds", type=float, default=4.0, show_default=True, help="How long to measure.")
def estimate(study: str, threads: int | None, seconds: float) -> None:
    """Measure what a whole trial of the base configuration takes here, as JSON."""
    from dataclasses import asdict

    from service.machine.estimate import measure_study

    threads = allocation.threads_of_one(threads)
    measured = measure_study(Settings.from_environment(), study, threads=threads, seconds=seconds)
    click.echo(json.dumps(asdict(measured)))
    sys.exit(1 if output.failure() else 0)


@click.command()
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


@click.command()
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

    settings, folder = Settings.from_environment(), reports_folder(study, out)
    console = terminal.console()
    if confirmed:
        scoring.score_confirmed(settings, study, folder=folder, console=console)
    else:
        scoring.score_best(settings, study, top=top or 5, folder=folder, console=console)


@click.command()
@click.argument("study")
@click.option("--scale", metavar="NAME", help="The scale it was run at.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the report.")
@click.option("--result", type=click.Path(dir_okay=False), help="Write the JSON there as well.")
def report(study: str, scale: str | None, out: str | None, result: str | None) -> None:
    """Write a study's report: a page, Markdown, JSON, CSV and figures."""
    from service.report.page import files, sections
    from service.storage.opened_study import open_study
    from service.study.file import checked_name

    settings = Settings.from_environment()
    name = checked_name(f"{study}-{scale}" if scale else study)
    folder = reports_folder(name, out)
    written = files.write(open_study(settings, name), folder=folder, result=Path(result) if result else None)
    if written.content.claims:
        click.echo(f"claims: {sections.verdicts(written.content)}")
    page, *others = written.paths
    if result:
        click.echo(f"written: {result}")
    click.echo(
        f"written: {page}, and {len(others) - bool(result)} files beside it: Markdown, JSON, CSV and figures"
    )


@click.command()
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


@click.command()
@click.argument("study")
@click.option("--form", type=click.Choice(["slack", "ntfy"]), default="slack", show_default=True)
@click.option(
    "--stalled-after",
    type=click.IntRange(1),
    default=1800,
    show_default=True,
    help="Seconds without a rung or an end.",
)
def notify(study: str, form: Any, stalled_after: int) -> None:
    """Tell HPTUNE_WEBHOOK of every new best trial, of a study that stalls, and of its end."""
    from service.machine import notices
    from service.machine import status as status_page

    webhook = notices.Webhook(os.environ.get(notices.SETTING, ""), form)
    take = status_page.take(Settings.from_environment(), study)
    notices.notify(take, webhook, stalled_seconds=stalled_after, say=click.echo)


VERBS = (estimate, status, evaluate, report, dashboard, notify)
