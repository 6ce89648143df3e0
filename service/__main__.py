"""The verbs: `python -m service create | work | workers | run | status | estimate | evaluate | report | dashboard`.

torch is imported only where something is trained or scored, so that the others answer at once.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from typing import Any

import click
from rich.console import Console

from model import yaml_tree
from model.errors import UserError
from service import logs
from service.settings import ROOT, Settings

OVERRIDE = click.option(
    "--set", "settings_", multiple=True, metavar="KEY=VALUE", help="Change one key of the base file."
)
SCALE = click.option("--scale", metavar="NAME", help="One of the sizes that the study file has.")


class _Verbs(click.Group):
    """Shows a user's mistake as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a UserError ends it with status 2, Ctrl-C with 130."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=_Verbs)
def cli() -> None:
    """Hyperparameter optimization for small language models."""


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
    from service.create import create as create_study

    number = (trials or "").removeprefix("+")
    if trials and (not number.isdecimal() or int(number) < 1):
        raise UserError(f"--trials: given {trials!r}, allowed: N trials in all, or +N more, N from 1")
    count = int(number) if number else None
    more = bool(trials and trials.startswith("+"))
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
    """Run trials until the study's slots are closed. SIGTERM and SIGINT save and hand back."""
    log = logs.configure(json_lines=json_lines, study=study)
    from service.worker import Worker  # imports torch

    owner = owner or f"{socket.gethostname()}:{uuid.uuid4().hex[:12]}"
    worker = Worker(Settings.from_environment(), study, owner=owner, threads=threads, parent=parent, log=log)
    for number in (signal.SIGTERM, signal.SIGINT):
        # in a thread of its own: the lock that `stop` takes may be held by what the signal interrupts
        signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
    worker.work()


@cli.command()
@click.argument("study")
@click.option("--workers", type=click.IntRange(1), help="Processes; what suits the machine unless given.")
def workers(study: str, workers: int | None) -> None:
    """Run this machine's workers until the study's slots are closed, logging JSON lines."""
    from service import machine
    from service.progress import JsonLines
    from service.slots import Slots
    from service.storage import load_study, open_storage
    from service.supervisor import Supervisor

    settings = Settings.from_environment()
    log = logs.configure(json_lines=True, study=study)
    storage = open_storage(settings)
    loaded, _ = load_study(storage, study, settings)
    slots = Slots(storage.engine, loaded._study_id, owner="workers", lease_seconds=settings.lease_seconds)
    places = machine.places(settings, workers=workers)
    gpus = sorted({place.gpu for place in places if place.gpu is not None})
    log.info("workers start", workers=len(places), gpus=gpus, threads=places[0].threads)
    sys.exit(Supervisor(study, slots=slots, places=places, view=JsonLines(log)).run())


@cli.command()
@click.argument("trials", type=click.IntRange(1), required=False)
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
    from service import machine
    from service.create import create as create_study
    from service.leaderboard import count_states, leaderboard, ranked_trials
    from service.progress import LiveTable
    from service.shown import shown_seconds
    from service.slots import Slots
    from service.storage import load_study, open_storage
    from service.supervisor import Supervisor

    settings = Settings.from_environment()
    console = Console(highlight=False)
    study_name, definition = create_study(
        settings,
        study,
        name=name,
        overrides=yaml_tree.parse_overrides(settings_),
        scale=scale,
        more=trials,
        say=lambda line: console.print(line, markup=False, soft_wrap=True),
    )
    storage = open_storage(settings)
    loaded, _ = load_study(storage, study_name, settings)
    slots = Slots(storage.engine, loaded._study_id, owner="run", lease_seconds=settings.lease_seconds)
    counts = slots.counts()
    to_run = counts["open"] + counts["leased"]
    if not to_run:
        what = "configurations of its design" if definition.cells else "trials of its file"
        console.print(f"study {study_name}: all {counts['closed']} {what} have run")
    else:
        places = machine.places(settings, workers=workers)
        if len(places) > to_run:
            places = machine.places(settings, workers=to_run)
        workers = len(places)
        measured = _measure(study_name, places[0].threads)
        seconds = measured["train_seconds"] + measured["evaluation_seconds"]
        console.print(
            f"a whole trial of the base configuration takes about {shown_seconds(seconds)} here "
            f"({measured['device']}, {measured['tokens_per_second']:,.0f} tokens/s); {to_run} trials with "
            f"{workers} worker{'s' if workers > 1 else ''} at most about {shown_seconds(seconds * to_run / workers)}, "
            "if none is pruned and none is larger",
            markup=False,
            soft_wrap=True,
        )
        view = LiveTable(study_name, workers=workers, trials=to_run, trial_seconds=seconds, console=console)
        status = Supervisor(study_name, slots=slots, places=places, view=view).run()
        if status:
            sys.exit(status)
    best = ranked_trials(loaded)[:10]
    console.print(
        f"study {study_name}: {count_states(loaded)}; kept checkpoints: {definition.keep_checkpoints}"
    )
    if best:
        console.print(leaderboard(best).as_rich("best trials, val_loss in nats per character"))
        console.print(f"evaluate the best on held-out titles: python evaluate.py --study {study_name}")


def _measure(study: str, threads: int) -> dict[str, Any]:
    """The estimate, from a process of its own: torch's memory is not kept while the workers run."""
    command = [sys.executable, "-m", "service", "estimate", study, "--threads", str(threads)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    if done.returncode:
        raise UserError(
            done.stderr.strip().removeprefix("error: ") or f"the measurement failed: {done.stdout}"
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@cli.command()
@click.argument("study")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--seconds", type=float, default=4.0, show_default=True, help="How long to measure.")
def estimate(study: str, threads: int | None, seconds: float) -> None:
    """Measure what a whole trial of the base configuration takes here, as JSON."""
    from dataclasses import asdict

    from model import device
    from model.tokenizer import TokenizedCorpus
    from service.estimate import measure
    from service.storage import corpus_facts, load_study, open_storage
    from service.study_corpus import load_corpus

    settings = Settings.from_environment()
    loaded, definition = load_study(open_storage(settings), study, settings)
    config = definition.base_config.with_tokens(corpus_facts(loaded)["budget_tokens"])
    data = TokenizedCorpus.prepare(
        load_corpus(loaded, settings), vocab_size=config.tokenizer.vocab_size, cache=settings.cache
    )
    where = device.choose(settings.device, threads=threads)
    click.echo(json.dumps(asdict(measure(config, data, device=where, seconds=seconds))))


@cli.command()
@click.argument("study")
@click.option("--watch", is_flag=True, help="Keep it up to date until the study's trials are used up.")
def status(study: str, watch: bool) -> None:
    """Workers alive, trials by state, rate, time left, and the best so far."""
    from service import status as status_page

    console = Console(highlight=False)
    take_snapshot = status_page.take(Settings.from_environment(), study)
    if watch:
        status_page.watch(take_snapshot, console)
    else:
        console.print(status_page.page(take_snapshot()))


@cli.command()
@click.option("--study", default="hn", show_default=True, help="Its name in the storage.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many of the best.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for evaluation.md and evaluation.json.")
def evaluate(study: str, top: int, out: str | None) -> None:
    """Score a study's best checkpoints on held-out titles."""
    from pathlib import Path

    from model import device
    from service import held_out
    from service.storage import corpus_facts, load_study, open_storage
    from service.stores import open_store
    from service.study_corpus import load_corpus
    from service.study_file import checked_name

    settings = Settings.from_environment()
    console = Console(highlight=False)
    loaded, _ = load_study(open_storage(settings), study, settings)
    folder = Path(out) if out else ROOT / "runs" / "reports" / checked_name(study)
    facts = corpus_facts(loaded)
    scores = held_out.evaluate(
        loaded,
        open_store(settings.artifacts),
        load_corpus(loaded, settings),
        top=top,
        device=device.choose(settings.device),
    )
    console.print(held_out.table(scores).as_rich(f"study {study}, held-out titles, nats per character"))
    for score in scores:
        console.print(f"\ntitles drawn from trial {score.trial}:")
        for title in score.titles:
            console.print(f"  {title}", markup=False, soft_wrap=True)
    reads = len(loaded.user_attrs[held_out.READS])
    times = "once" if reads == 1 else f"{reads} times"
    console.print(f"\nthe held-out split of this study has now been read {times}")
    description = {
        "study": study,
        "source": facts["source"],
        "corpus_fingerprint": facts["fingerprint"],
        "held_out_documents": facts["documents"][2],
        "held_out_reads": reads,
    }
    for path in held_out.write(scores, folder, description):
        console.print(f"written: {path}", soft_wrap=True)


@cli.command()
@click.argument("study")
@click.option("--scale", metavar="NAME", help="The scale it was run at.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the report.")
@click.option("--result", type=click.Path(dir_okay=False), help="Write the JSON there as well.")
def report(study: str, scale: str | None, out: str | None, result: str | None) -> None:
    """Write a study's report: a page, Markdown, JSON, CSV and figures."""
    from pathlib import Path

    from service.report import files, sections
    from service.storage import load_study, open_storage
    from service.study_file import checked_name

    settings = Settings.from_environment()
    name = checked_name(f"{study}-{scale}" if scale else study)
    loaded, definition = load_study(open_storage(settings), name, settings)
    folder = Path(out) if out else ROOT / "runs" / "reports" / name
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
def dashboard(host: str, port: int, published_on_loopback: bool) -> None:
    """Serve the studies, their trials and artifacts to a browser.

    HPTUNE_DASHBOARD_PASSWORD, or the file HPTUNE_DASHBOARD_PASSWORD_FILE, is asked for (user hptune) when it
    is set, and has to be for a --host beyond this machine.
    """
    from service.dashboard import read_password, serve

    serve(
        Settings.from_environment(),
        host=host,
        port=port,
        password=read_password(),
        published_on_loopback=published_on_loopback,
        say=click.echo,
    )


if __name__ == "__main__":
    cli(prog_name="python -m service")
