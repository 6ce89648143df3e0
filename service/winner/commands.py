"""The verbs `best`, `train` and `generate`, and the winner's formats of `export`."""

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model.config import yaml_tree
from model.errors import Diverged, UserError
from service import output
from service.settings import HOME, Settings
from service.text import terminal

if TYPE_CHECKING:  # brings torch
    from model.training import TrainingRun
    from service.winner.choice import Winner

TRIAL = click.option(
    "--trial", type=click.IntRange(0), metavar="N", help="This trial, in place of the winner."
)
MODEL = click.option(
    "--model", type=click.Path(file_okay=False), help="The checkpoint in this folder, as `train` writes it."
)


@click.command()
@click.argument("study")
@click.option(
    "--as",
    "form",
    type=click.Choice(["yaml", "overrides", "difference"]),
    default="yaml",
    show_default=True,
    help="A whole configuration file; `--set` for its base file; what is other than in the baseline.",
)
@TRIAL
def best(study: str, form: str, trial: int | None) -> None:
    """The configuration that a study recommends."""
    from service.winner import configuration

    winner = _chosen(study, trial)
    if form == "difference":
        console = terminal.console()
        terminal.say(console, f"study {study}: {winner.why}")
        console.print(configuration.as_difference(winner).as_rich("what differs"))
    else:
        click.echo(
            configuration.as_yaml(winner) if form == "yaml" else configuration.as_overrides(winner),
            nl=form != "yaml",
        )
    sys.exit(1 if output.failure() else 0)


@click.command()
@click.argument("study")
@click.option("--epochs", type=float, help="Passes over what it trains on.")
@click.option("--tokens", type=int, help="Training tokens, in place of passes.")
@click.option(
    "--on",
    type=click.Choice(["train", "all"]),
    default="train",
    show_default=True,
    help="The study's train split, or all titles, which leaves none to measure on.",
)
@click.option("--from-checkpoint", is_flag=True, help="Begin with the winner's weights.")
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Change one key of its configuration."
)
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the checkpoint.")
@TRIAL
def train(
    study: str,
    epochs: float | None,
    tokens: int | None,
    on: str,
    from_checkpoint: bool,
    pairs: tuple[str, ...],
    out: str | None,
    trial: int | None,
) -> None:
    """Train the configuration that a study recommends, longer or on all titles. Ctrl-C saves; the same call goes on."""
    overrides = yaml_tree.parse_overrides(pairs)
    budgets: dict[str, Any] = {"training.epochs": epochs, "training.tokens": tokens}
    given = {key: value for key, value in budgets.items() if value is not None}
    if len(given) + len({"training.epochs", "training.tokens", "training.steps"} & set(overrides)) > 1:
        raise UserError(
            "the budget is given twice, allowed: one of --epochs, --tokens and --set training.steps"
        )
    from service.winner.final_run import Request  # imports torch
    from service.winner.final_run import train as train_winner

    winner = _chosen(study, trial)
    request = Request({**overrides, **given}, "all" if on == "all" else "train", from_checkpoint)
    parts = [
        winner.name,
        f"{epochs:g}-epochs" if epochs is not None else "",
        f"{tokens}-tokens" if tokens is not None else "",
        *(f"{key.rpartition('.')[2]}-{value}" for key, value in overrides.items()),
        "all" if on == "all" else "",
        "continued" if from_checkpoint else "",
    ]
    folder = Path(out) if out else _models(study, "-".join(filter(None, parts)))

    def watch(run: "TrainingRun") -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: run.stop())

    try:
        made = train_winner(winner, request, Settings.from_environment(), folder, watch=watch, say=click.echo)
    except Diverged as error:
        click.echo(f"diverged: {error}", err=True)
        sys.exit(1)
    if made is None:
        click.echo(f"stopped: saved in {folder}; the same command goes on with it")
        sys.exit(130)
    click.echo(f"written: {folder}")


@click.command()
@click.argument("study")
@click.option("--prompt", default="", help="How each title begins.")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="Above 0; low is likely.")
@click.option("--number", type=click.IntRange(1, 10_000), default=5, show_default=True, help="Titles.")
@click.option(
    "--tokens", type=click.IntRange(1, 10_000), default=40, show_default=True, help="At most, of a title."
)
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True)
@MODEL
@TRIAL
def generate(
    study: str,
    prompt: str,
    temperature: float,
    number: int,
    tokens: int,
    seed: int,
    model: str | None,
    trial: int | None,
) -> None:
    """Draw titles from the best checkpoint of a study."""
    from model.checkpoint import Checkpoint  # imports torch
    from service.winner import titles

    settings = Settings.from_environment()
    checkpoint = Checkpoint.read(Path(model)) if model else _chosen(study, trial).checkpoint(settings)
    drawn = titles.draw(
        checkpoint, prompt=prompt, number=number, temperature=temperature, most_tokens=tokens, seed=seed
    )
    for title in drawn:
        click.echo(title)
    sys.exit(1 if output.failure() else 0)


@click.command()
@click.argument("study")
@click.option(
    "--format",
    "form",
    type=click.Choice(["checkpoint", "hf", "csv", "parquet", "json"]),
    required=True,
    help="The best model as this project reads it, or as `transformers` does; or the trials as a table.",
)
@click.option("--out", help="Folder of a model, or file of a table; - shows a csv or json.")
@click.option("--whole", is_flag=True, help="A table with every key of the configurations.")
@MODEL
@TRIAL
def export(study: str, form: str, out: str | None, whole: bool, model: str | None, trial: int | None) -> None:
    """Write the best model of a study, or its trials, for use elsewhere."""
    if form in ("checkpoint", "hf"):
        if whole:
            raise UserError(f"--whole: has no effect with --format {form}")
        click.echo(f"written: {export_model(study, form, trial=trial, model=model, out=out)}")
        return
    for option, value in (("--model", model), ("--trial", trial)):
        if value is not None:
            raise UserError(f"{option}: has no effect with --format {form}, which has all trials")
    _export_table(study, form, out, whole=whole)


def _export_table(study: str, form: str, out: str | None, *, whole: bool) -> None:
    from service.catalogue import table
    from service.storage.opened_study import open_study
    from service.study.file import checked_name

    if out == "-" and form == "parquet":
        raise UserError("--out -: parquet is no text, allowed: a file")
    with contextlib.closing(open_study(Settings.from_environment(), study)) as opened:
        rows = table.rows(opened.study, opened.definition, whole=whole)
    if out == "-":
        click.echo(table.as_text(rows, form), nl=False)
        sys.exit(1 if output.failure() else 0)
    path = Path(out) if out else HOME / "runs" / "exports" / f"{checked_name(study)}.{form}"
    table.write(rows, form, path)
    click.echo(f"written: {path} ({len(rows)} trials)")


def export_model(study: str, form: str, *, trial: int | None, model: str | None, out: str | None) -> Path:
    """The folder with the winner's checkpoint as it is, or as `transformers` loads it. Raises UserError."""
    from model.checkpoint import Checkpoint
    from service.winner import card, hugging_face

    winner = _chosen(study, trial)
    settings = Settings.from_environment()
    if winner.definition.own_run is not None and form == "checkpoint" and model is None:
        return _export_state(winner, settings, Path(out) if out else _models(study, winner.name))
    winner.definition.gpt_config(f"--format {form}")
    checkpoint = Checkpoint.read(Path(model)) if model else winner.checkpoint(settings)
    name = Path(model).resolve().name if model else winner.name
    folder = Path(out) if out else _models(study, f"{name}-hf" if form == "hf" else name)
    try:
        if form == "hf":
            held_out = None if model else card.held_out_of(winner, HOME / "runs" / "reports" / study)
            text = card.card(winner, checkpoint, held_out=held_out, name=folder.name)
            hugging_face.write(checkpoint, folder, text)
        else:
            checkpoint.write(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror or error}; --out names another"
        ) from None
    return folder


def _export_state(winner: "Winner", settings: Settings, folder: Path) -> Path:
    """What a class of the user's has saved of the winner."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        winner.write_state(settings, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror or error}; --out names another"
        ) from None
    return folder


def _chosen(study: str, trial: int | None) -> "Winner":
    from service.winner.choice import choose

    return choose(Settings.from_environment(), study, trial=trial)


def _models(study: str, name: str) -> Path:
    from service.study.file import checked_name

    return HOME / "runs" / "models" / checked_name(study) / name


COMMANDS = (best, train, generate, export)
