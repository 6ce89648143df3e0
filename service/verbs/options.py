"""What several verbs take: options, and arguments that need more than a type."""

import re
from pathlib import Path

import click

from model.data.files import check_writable
from model.errors import UserError
from service.settings import HOME, MOST_TRIALS

OVERRIDE = click.option(
    "--set", "settings_", multiple=True, metavar="KEY=VALUE", help="Change one key of the base file."
)
SCALE = click.option("--scale", metavar="NAME", help="One of the sizes that the study file has.")


def reports_folder(study: str, given: str | None) -> Path:
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


def number_of_trials(given: str | None) -> tuple[int | None, bool]:
    """The number, and whether it is of further trials. Raises UserError: it is none."""
    number = (given or "").removeprefix("+")
    if given and (not re.fullmatch("[0-9]{1,9}", number) or not 1 <= int(number) <= MOST_TRIALS):
        raise UserError(
            f"--trials: given {given!r}, allowed: N trials in all, or +N more, N from 1 to {MOST_TRIALS}"
        )
    return int(number) if number else None, bool(given and given.startswith("+"))
