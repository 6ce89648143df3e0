"""`python -m model`: one training run from a configuration file, without tuner or database."""

import sys
from pathlib import Path

import click

from model.command_line import faults_in_one_line
from model.config import yaml_tree
from model.config.counts import parameter_count
from model.config.section import validate
from model.config.settings_without_effect import settings_without_effect
from model.config.train_config import DiagnosticsConfig, TrainConfig
from model.data import corpus
from model.data.files import check_writable, write_atomically
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import ConfigError, Diverged
from model.hardware import device
from model.measurement import diagnostics
from model.measurement.sinks import Curves
from model.optimization import optimizer
from model.training import TrainingRun


@click.command()
@click.option("--config", "path", default="train_config.yaml", show_default=True)
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Change one key of the file.")
@click.option("--device", "device_name", default="auto", show_default=True)
@click.option("--cache", default="runs/cache", show_default=True, help="Folder for corpora and token arrays.")
@click.option("--out", help="Folder for the checkpoint and diagnostics.")
def main(path: str, pairs: tuple[str, ...], device_name: str, cache: str, out: str | None) -> None:
    """Train once and print an evaluation at every rung."""
    try:
        with faults_in_one_line():
            train(path, pairs, device_name, Path(cache), Path(out) if out else None)
    except Diverged as error:
        click.echo(f"diverged: {error}", err=True)
        sys.exit(1)


def train(path: str, pairs: tuple[str, ...], device_name: str, cache: Path, out: Path | None) -> None:
    """Train the run in the file `path`. Raises UserError, and Diverged."""
    overrides = yaml_tree.parse_overrides(pairs)
    config = validate(yaml_tree.read(path).with_overrides(overrides), TrainConfig)
    for key in overrides:
        if key in settings_without_effect(config):
            raise ConfigError(f"--set {key}: has no effect in this run")
    if config.tokenizer.trained_on != "train":
        raise ConfigError(
            "tokenizer.trained_on: must be train outside of a study that rebuilds published figures"
        )
    if out is None and config.diagnostics != DiagnosticsConfig():
        raise ConfigError("diagnostics: given without --out, allowed with it: they are written there")
    if out is not None:
        try:
            check_writable(out)
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    documents = corpus.build(config.data, cache=cache, tokenizer=config.tokenizer.pretrained, say=click.echo)
    for note in documents.notes:
        click.echo(note)
    click.echo(f"corpus: {documents.source}, {documents.duplicates:,} duplicates dropped")
    data = TokenizedCorpus.prepare(documents, config.tokenizer, cache=cache)
    run = TrainingRun(config, data, device=device.choose(device_name))
    click.echo(
        f"{parameter_count(run.config):,} parameters on {run.device.description}, {run.precision.reason}"
    )
    for line in optimizer.describe_groups(run.optimizers):
        click.echo(line)
    try:
        follow(run, out)
    finally:
        if run.diagnostics and out is not None:
            write_atomically(out / "diagnostics.jsonl", diagnostics.as_lines(run.diagnostics).encode())
    last = run.evaluations[-1]
    click.echo(f"val_loss_official {last.val_loss_official:.4f} with coverage {last.coverage:.4f}")
    if out is not None:
        run.checkpoint().write(out)
        click.echo(f"written: {out}")


def follow(run: TrainingRun, out: Path | None) -> None:
    """Train, print every evaluation, and draw the curves that are asked for. Raises UserError, and Diverged."""
    with Curves(run, out or Path(), group="", name="curves", warn=click.echo) as curves:
        for evaluation in run:
            click.echo(
                f"tokens {evaluation.tokens:>12,}  train_loss {evaluation.train_loss:.4f}  "
                f"val_loss {evaluation.val_loss:.4f}  bits_per_byte {evaluation.bits_per_byte:.4f}  "
                f"{evaluation.tokens_per_second:,.0f} tokens/s"
            )
            curves.write()


if __name__ == "__main__":
    main(prog_name="python -m model")
