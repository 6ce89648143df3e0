"""Verbs that make a study and run its trials.

torch is imported only where something is trained or scored, so that the others answer at once.
"""

import signal
import socket
import sys
import threading
import uuid

import click

from model.config import yaml_tree
from model.errors import UserError
from service import logs
from service.machine import allocation
from service.settings import MOST_TRIALS, Settings
from service.text import terminal
from service.text.commands import verb
from service.verbs.options import OVERRIDE, SCALE, number_of_trials, reports_folder


@click.command()
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
    from service.storage.opened_study import open_study

    settings = Settings.from_environment()
    count, more = number_of_trials(trials)
    made, _ = create_study(
        settings,
        study,
        name=name,
        overrides=yaml_tree.parse_overrides(settings_),
        scale=scale,
        more=count if more else None,
        total=None if more else count,
        say=click.echo,
    )
    opened = open_study(settings, made)
    left = opened.trials_left()
    here = f"; workers of this machine: {verb('workers', made)}" if left else ""
    click.echo(f"study {made} has {opened.shown_left(left)} left{here}")


@click.command()
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
        Settings.from_environment(),
        study,
        owner=owner,
        threads=allocation.threads_of_one(threads),
        parent=parent,
        drops=drops,
        log=log,
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # under nohup
        # in a thread of its own: the lock that `stop` takes may be held by what the signal interrupts
        signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
    worker.work()


@click.command()
@click.argument("study")
@click.option("--workers", type=click.IntRange(1), help="Processes; what suits the machine unless given.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each; its share unless given.")
@click.option(
    "--create", "make", is_flag=True, help="First make the study, if it has a folder under studies/."
)
@click.option(
    "--trials", metavar="N", help="With --create: trials to finish in all; what it has unless given."
)
def workers(study: str, workers: int | None, threads: int | None, make: bool, trials: str | None) -> None:
    """Run this machine's workers until the study's slots are closed. HPTUNE_LOG=json: log as JSON lines."""
    from service.machine.run import work as work_here

    count, more = number_of_trials(trials)
    if trials and (more or not make):
        raise UserError(f"--trials: given {trials!r}, allowed: with --create, N trials in all, N from 1")
    settings = Settings.from_environment()
    sys.exit(work_here(settings, study, workers=workers, threads=threads, make=make, trials=count))


@click.command()
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


@click.command()
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
        folder=reports_folder(study, out),
        console=terminal.console(),
    )


@click.command()
@click.argument("study")
@click.option("--places", type=click.IntRange(1, 10_000), required=True, help="Workers at most.")
@click.option("--gpus", default="0", show_default=True, help="Of each worker: 1, or a part of one as 0.25.")
@click.option(
    "--cpus", type=click.IntRange(1), default=2, show_default=True, help="Of each worker; its threads."
)
@click.option("--address", help="Of the cluster; RAY_ADDRESS, or the one on this machine, unless given.")
def place(study: str, places: int, gpus: str, cpus: int, address: str | None) -> None:
    """Run a study's workers on a Ray cluster until its trials are used up; also under `ray job submit`."""
    from service.cluster import ray_places

    part = ray_places.part_of_gpu(gpus)
    console = terminal.console()
    settings = Settings.from_environment()
    sys.exit(
        ray_places.place(
            settings, study, places=places, gpus=part, cpus=cpus, address=address, console=console
        )
    )


VERBS = (create, work, workers, run, confirm, place)
