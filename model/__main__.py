"""`python -m model`: one training run from a configuration file, without tuner or database."""

import sys
from pathlib import Path

import click

from model import corpus, device, optimizer, yaml_tree
from model.config import TrainConfig
from model.errors import Diverged, UserError
from model.tokenizer import TokenizedCorpus
from model.training import TrainingRun


@click.command()
@click.option("--config", "path", default="train_config.yaml", show_default=True)
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Change one key of the file.")
@click.option("--device", "device_name", default="auto", show_default=True)
@click.option("--cache", default="runs/cache", show_default=True, help="Folder for corpora and token arrays.")
@click.option("--out", help="Folder for the checkpoint.")
def main(path: str, pairs: tuple[str, ...], device_name: str, cache: str, out: str | None) -> None:
    """Train once and print an evaluation at every rung."""
    try:
        train(path, pairs, device_name, Path(cache), Path(out) if out else None)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Diverged as error:
        click.echo(f"diverged: {error}", err=True)
        sys.exit(1)


def train(path: str, pairs: tuple[str, ...], device_name: str, cache: Path, out: Path | None) -> None:
    """Train the run in the file `path`. Raises UserError, and Diverged."""
    document = yaml_tree.read(path).with_overrides(yaml_tree.parse_overrides(pairs))
    config = yaml_tree.validate(document, TrainConfig)
    documents = corpus.build(config.data, cache=cache)
    for note in documents.notes:
        click.echo(note)
    click.echo(f"corpus: {documents.source}, {documents.duplicates:,} duplicates dropped")
    data = TokenizedCorpus.prepare(documents, vocab_size=config.tokenizer.vocab_size, cache=cache)
    run = TrainingRun(config, data, device=device.choose(device_name))
    click.echo(
        f"{run.config.parameter_count:,} parameters on {run.device.description}, {run.precision.reason}"
    )
    for line in optimizer.describe_groups(run.optimizers):
        click.echo(line)
    for evaluation in run:
        click.echo(
            f"tokens {evaluation.tokens:>12,}  train_loss {evaluation.train_loss:.4f}  "
            f"val_loss {evaluation.val_loss:.4f}  bits_per_byte {evaluation.bits_per_byte:.4f}  "
            f"{evaluation.tokens_per_second:,.0f} tokens/s"
        )
    last = run.evaluations[-1]
    click.echo(f"val_loss_official {last.val_loss_official:.4f} with coverage {last.coverage:.4f}")
    if out is not None:
        run.checkpoint().write(out)
        click.echo(f"written: {out}")


if __name__ == "__main__":
    main(prog_name="python -m model")
