"""The verb that tries training code of the user's, before a study does."""

import sys
from functools import partial
from pathlib import Path

import click

from model.config import yaml_tree
from service import output
from service.settings import Settings


@click.command(name="check-run")
@click.argument("run")
@click.option(
    "--base", required=True, type=click.Path(dir_okay=False), help="The file with what the class is given."
)
@click.option("--budget", type=click.IntRange(2), default=4, show_default=True, help="How long to train it.")
@click.option("--rungs", type=click.IntRange(2, 1000), default=4, show_default=True, help="Evaluations.")
@click.option("--unit", default="steps", show_default=True, help="What the budget counts.")
@click.option("--metric", default="loss", show_default=True, help="What the class minimises.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Change one key of the base file.")
def check_run(
    run: str, base: str, budget: int, rungs: int, unit: str, metric: str, pairs: tuple[str, ...]
) -> None:
    """Train the class RUN (my_package.train:Run) briefly, and say whether a study can: is it deterministic, resumed to
    the bit in a fresh process, evaluated at the right budgets, and does it stop in time?"""
    from service.machine.check_run import check  # imports torch
    from service.study.base_file import folders_of
    from service.study.own_run import BudgetConfig, OwnRunKind

    Settings.from_environment()
    overrides = yaml_tree.parse_overrides(pairs)
    file = yaml_tree.read(base).with_overrides(overrides, dict.fromkeys(overrides, "command line"))
    kind = OwnRunKind(run, BudgetConfig(amount=budget, unit=unit, rungs=min(rungs, budget)), metric)
    holds = True
    for finding in check(kind, file, folders_of(Path(base)), say=partial(click.echo, err=True)):
        if finding.traceback:
            click.echo(finding.traceback.rstrip("\n"), err=True)
        click.echo(f"{'ok' if finding.holds else 'no'}  {finding.said}")
        holds = holds and finding.holds
    sys.exit(0 if holds and not output.failure() else 1)


VERBS = (check_run,)
