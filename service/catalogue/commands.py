"""The verbs for studies as things: list, show, compare, rename, delete, import, enqueue, fork."""

import contextlib
import sys
from pathlib import Path

import click

from model.config import yaml_tree
from model.errors import UserError
from service import output
from service.settings import HOME, MOST_TRIALS, Settings
from service.text import terminal
from service.text.commands import verb
from service.text.grid import Grid


@click.command("list")
def list_() -> None:
    """All studies of the storage: kind, trials by state, best, when a trial last ended."""
    from service.catalogue import listing

    settings = Settings.from_environment()
    console = terminal.console()
    console.print(listing.grid(settings).as_rich("studies"))
    terminal.say(console, f"storage: {settings.storage_shown}")
    sys.exit(1 if output.failure() else 0)


@click.command()
@click.argument("study")
def show(study: str) -> None:
    """What a study is: question, corpus, budget, space, sampler, and where it stands."""
    from service.catalogue import listing
    from service.storage.opened_study import open_study

    with contextlib.closing(open_study(Settings.from_environment(), study)) as opened:
        grid = listing.facts(opened)
    click.echo(f"study {study}")
    for key, value in grid.rows:
        click.echo(f"  {key}: {value}")
    sys.exit(1 if output.failure() else 0)


@click.command()
@click.argument("first", metavar="STUDY[:ARM]")
@click.argument("second", metavar="OTHER[:ARM]")
@click.option(
    "--html", type=click.Path(dir_okay=False), metavar="FILE", help="Write both on one page, with figures."
)
def compare(first: str, second: str, html: str | None) -> None:
    """What differs between two studies, and which has found better.

    STUDY:ARM is one arm of a design, STUDY:7 trial 7 of a search; without it, the best of the study is taken.
    """
    from service.report.page import pair as page
    from service.report.record import pair as pairs
    from service.storage.opened_study import open_study

    settings = Settings.from_environment()
    with contextlib.closing(open_study(settings, pairs.split(first)[0])) as opened:
        pair = pairs.read(opened, (first, second), files=html is not None)
    console = terminal.console()
    for table in page.for_terminal(pair):
        console.print(Grid(table.headings, table.rows).as_rich(table.title))
    for sentence in (page.verdict(pair), *page.sentences(pair)):
        console.print(sentence.replace("`", ""), markup=False)
    for command in page.confirmations(pair):
        terminal.say(console, f"better, or luckier: {command}")
    if html is not None:
        page.write(pair, Path(html))
        click.echo(f"written: {html}")
    sys.exit(1 if output.failure() else 0)


@click.command()
@click.argument("study")
@click.argument("name")
def rename(study: str, name: str) -> None:
    """Give a study another NAME in the storage."""
    from service.catalogue import change

    change.rename(Settings.from_environment(), study, name)
    click.echo(f"renamed: study {study} is {name} now; reports written before stay where they are")


@click.command()
@click.argument("study")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(study: str, yes: bool) -> None:
    """Remove a study with its trials, slots, notes, checkpoints and other files."""
    from service.catalogue import change

    settings = Settings.from_environment()
    found = change.remains(settings, study)
    if not yes:
        stays = "".join(f"; {name}, which confirms it, stays" for name in found.confirmations)
        what = f"study {study} with {found.trials} trials and {len(found.artifacts)} files{stays}"
        if not sys.stdin.isatty():
            raise UserError(f"{what}: would be deleted; --yes does it without asking")
        if not click.confirm(f"delete {what}?"):
            click.echo("nothing is deleted")
            sys.exit(1)
    change.delete(settings, study, say=click.echo)


@click.command("import")
@click.argument("study")
@click.option(
    "--optuna", "foreign", metavar="NAME", help="The complete trials of a study that Optuna itself has made."
)
@click.option("--storage", metavar="URL", help="With --optuna: where that is, if not in the same storage.")
@click.option(
    "--csv",
    "file",
    type=click.Path(dir_okay=False),
    help="Rows with val_loss and a column for each key of the space, as `export --format csv` writes them.",
)
@click.option(
    "--map",
    "names_",
    multiple=True,
    metavar="NAME=KEY",
    help="What is called otherwise there; NAME= is left out.",
)
@click.option("--fitting", is_flag=True, help="Take what lies in the space; otherwise all of it has to.")
def import_(
    study: str,
    foreign: str | None,
    storage: str | None,
    file: str | None,
    names_: tuple[str, ...],
    fitting: bool,
) -> None:
    """Add results from elsewhere to a study: they are ranked with its own, and its search learns from them."""
    from service.catalogue import intake
    from service.storage.opened_study import open_study

    if (foreign is None) == (file is None):
        raise UserError(f"import: {'both' if file else 'neither'} given, allowed: one of --optuna and --csv")
    if storage is not None and foreign is None:
        raise UserError("--storage: has no effect with --csv")
    settings, names = Settings.from_environment(), intake.parse_names(names_)
    with contextlib.closing(open_study(settings, study)) as opened:
        definition = opened.definition
    if foreign is not None:
        if storage is None and foreign == study:
            raise UserError(f"--optuna {foreign}: is the study itself, allowed: another one")
        results, others = intake.results_of_optuna(settings, foreign, url=storage)
        source = f"study {foreign}"
    else:
        assert file is not None, "one of the two is given"
        results, others = intake.results_of_csv(Path(file), definition, names=names)
        source, names = f"file {Path(file).name}", {}
    taken = intake.take(settings, study, results, source=source, names=names, fitting=fitting)
    for line in taken.refused[:10]:
        click.echo(f"left out: {line}")
    if len(taken.refused) > 10:
        click.echo(f"left out: {len(taken.refused) - 10} more")
    also = [
        f"{number} {what}"
        for number, what in ((taken.known, "were there already"), (others, "are not complete"))
        if number
    ]
    click.echo(f"imported: {taken.added} trials into study {study}" + "".join(f"; {each}" for each in also))


@click.command()
@click.argument("study")
@click.argument("pairs", nargs=-1, metavar="KEY=VALUE...")
def enqueue(study: str, pairs: tuple[str, ...]) -> None:
    """Have a study try a known point next; what it leaves out is sampled."""
    from service.catalogue import intake

    number, free = intake.enqueue(Settings.from_environment(), study, _values(pairs))
    where = (
        f"runs in the next of {free} free slots" if free else "waits: no slot is free, more trials make some"
    )
    click.echo(f"enqueued: trial {number} of study {study} {where}")


@click.command()
@click.argument("study")
@click.option("--name", required=True, help="What to call the new one in the storage.")
@click.option("--file", help="Its file, or folder under studies/; that of STUDY as it is now, unless given.")
@click.option("--trials", type=click.IntRange(1, MOST_TRIALS), help="To finish, beside those taken along.")
@click.option("--scale", metavar="NAME", help="One of the sizes that the study file has.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Change one key of the base file.")
def fork(
    study: str, name: str, file: str | None, trials: int | None, scale: str | None, pairs: tuple[str, ...]
) -> None:
    """Make STUDY anew from its changed file, and take along the trials that the new space would train alike."""
    from service.catalogue import fork as forking
    from service.storage.opened_study import open_study
    from service.study.file import found_in

    settings = Settings.from_environment()
    with contextlib.closing(open_study(settings, study)) as opened:
        before = opened.definition
    if file is None and before.file is None:
        raise UserError(f"study {study!r}: the file that it was made from is not known; --file names one")
    given = file or _as_given(found_in(HOME, before.file or ""))
    overrides = yaml_tree.parse_overrides(pairs) or dict(before.overrides)
    made = forking.fork(
        settings,
        study,
        given,
        name=name,
        overrides=overrides,
        scale=scale or before.scale,
        trials=trials,
        say=click.echo,
    )
    for reason, number in made.left.items():
        click.echo(f"left behind: {number} trial{'s' if number > 1 else ''}, {reason}")
    click.echo(f"forked: study {name} begins with {made.taken} trials of {study}")
    click.echo(f"go on: {verb('run', '--study', given, '--name', name)}")


def _as_given(file: Path) -> str:
    """A study file as people name it: one of `studies/` by its folder."""
    from service.study.file import from_here

    folder = file.parent
    shipped = file.name == "study.yaml" and folder.parent == HOME / "studies"
    return folder.name if shipped else str(from_here(file))


def _values(pairs: tuple[str, ...]) -> dict[str, object]:
    try:
        return yaml_tree.parse_overrides(pairs)
    except UserError as error:
        raise UserError(str(error).replace("--set ", "")) from None


COMMANDS = (list_, show, compare, rename, delete, import_, enqueue, fork)
