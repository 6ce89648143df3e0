"""The verbs: `python -m service create | work | run | status | estimate | evaluate`.

torch is imported only where something is trained or scored, so that the others answer at once.
"""

import json
import os
import signal
import subprocess
import sys
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
@click.option("--trials", type=click.IntRange(1), help="Trials to finish in all.")
@OVERRIDE
def create(study: str, name: str | None, trials: int | None, settings_: tuple[str, ...]) -> None:
    """Make the storage's tables, the study and its slots; nothing is done twice."""
    from service.create import create as create_study

    create_study(
        Settings.from_environment(),
        study,
        name=name,
        overrides=yaml_tree.parse_overrides(settings_),
        total=trials,
        say=click.echo,
    )


@cli.command()
@click.argument("study")
@click.option("--index", type=click.IntRange(0), default=0, help="Of this worker among its fellows.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--parent", type=int, help="Stop when this process is gone.")
@click.option("--json", "json_lines", is_flag=True, help="Log as JSON lines.")
def work(study: str, index: int, threads: int | None, parent: int | None, json_lines: bool) -> None:
    """Run trials until the study's slots are closed. SIGTERM and SIGINT save and hand back."""
    log = logs.configure(json_lines=json_lines, study=study, worker=index)
    from service.worker import Worker  # imports torch

    worker = Worker(Settings.from_environment(), study, index=index, threads=threads, parent=parent, log=log)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.work()


@cli.command()
@click.argument("trials", type=click.IntRange(1))
@click.option("--study", default="hn", show_default=True, help="Folder under studies/, or a study file.")
@click.option("--name", help="What to call it in the storage.")
@click.option(
    "--workers", type=click.IntRange(1), help="Processes; one a GPU, or one on a CPU, unless given."
)
@OVERRIDE
def run(trials: int, study: str, name: str | None, workers: int | None, settings_: tuple[str, ...]) -> None:
    """Finish TRIALS more trials of a study on this machine, and show the best."""
    from service.create import create as create_study
    from service.leaderboard import count_states, leaderboard, ranked_trials
    from service.slots import Slots
    from service.storage import load_study, open_storage
    from service.supervisor import Supervisor, shown_seconds

    settings = Settings.from_environment()
    console = Console(highlight=False)
    study_name, definition = create_study(
        settings,
        study,
        name=name,
        overrides=yaml_tree.parse_overrides(settings_),
        more=trials,
        say=lambda line: console.print(line, markup=False, soft_wrap=True),
    )
    storage = open_storage(settings)
    loaded, _ = load_study(storage, study_name, settings)
    slots = Slots(storage.engine, loaded._study_id, owner="run", lease_seconds=settings.lease_seconds)
    counts = slots.counts()
    to_run = counts["open"] + counts["leased"]
    if not to_run:
        console.print(f"study {study_name}: all {counts['closed']} configurations of its design have run")
    else:
        workers = min(workers or 1, to_run)
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        measured = _measure(study_name, threads)
        seconds = measured["train_seconds"] + measured["evaluation_seconds"]
        console.print(
            f"a whole trial of the base configuration takes about {shown_seconds(seconds)} here "
            f"({measured['device']}, {measured['tokens_per_second']:,.0f} tokens/s); {to_run} trials with "
            f"{workers} worker{'s' if workers > 1 else ''} at most about {shown_seconds(seconds * to_run / workers)}, "
            "if none is pruned and none is larger",
            markup=False,
            soft_wrap=True,
        )
        status = Supervisor(settings, study_name, slots, workers, threads, to_run, seconds, console).run()
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
    from service.worker import load_corpus

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
def status(study: str) -> None:
    """Trials by state, slots left, and the best so far."""
    from service.leaderboard import count_states, leaderboard, ranked_trials
    from service.slots import Slots
    from service.storage import load_study, open_storage

    settings = Settings.from_environment()
    storage = open_storage(settings)
    loaded, _ = load_study(storage, study, settings)
    slots = Slots(storage.engine, loaded._study_id, owner="status", lease_seconds=settings.lease_seconds)
    counts = slots.counts()
    console = Console(highlight=False)
    console.print(f"study {study}: {count_states(loaded)}")
    console.print(f"slots: {counts['closed']} closed, {counts['leased']} at work, {counts['open']} open")
    best = ranked_trials(loaded)[:10]
    if best:
        console.print(leaderboard(best).as_rich("best trials, val_loss in nats per character"))


@cli.command()
@click.option("--study", default="hn", show_default=True, help="Its name in the storage.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many of the best.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for evaluation.md and evaluation.json.")
def evaluate(study: str, top: int, out: str | None) -> None:
    """Score a study's best checkpoints on held-out titles."""
    from pathlib import Path

    from model import device
    from service import held_out
    from service.artifacts import FolderStore
    from service.storage import corpus_facts, load_study, open_storage
    from service.worker import load_corpus

    settings = Settings.from_environment()
    console = Console(highlight=False)
    loaded, _ = load_study(open_storage(settings), study, settings)
    facts = corpus_facts(loaded)
    scores = held_out.evaluate(
        loaded,
        FolderStore(settings.artifacts),
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
    folder = Path(out) if out else ROOT / "runs" / "reports" / study
    for path in held_out.write(scores, folder, description):
        console.print(f"written: {path}", soft_wrap=True)


if __name__ == "__main__":
    cli(prog_name="python -m service")
