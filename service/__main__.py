"""`python -m service`: its verbs, and how each of them ends. `--help` lists them."""

import os
import signal
import threading
from typing import Any

_at_start = signal.getsignal(signal.SIGINT)
_stands_by = _at_start is signal.default_int_handler and threading.current_thread() is threading.main_thread()
if _stands_by:  # Ctrl-C in the middle of the imports below ends the process without their traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import click

from model.command_line import faults_in_one_line
from service import output
from service.catalogue import commands as of_the_catalogue
from service.machine import places
from service.settings import Settings
from service.verbs import checking, reading, running
from service.winner import commands as of_the_winner

if _stands_by:
    signal.signal(signal.SIGINT, _at_start)


class _Verbs(click.Group):
    """Shows a user's mistake, and a database's refusal, as one line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each verb with its whole first sentence, which click would cut to what fits on one line."""
        verbs = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, found.get_short_help_str(limit=1000)) for name, found in verbs if found]
            )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a UserError ends it with its status, Ctrl-C with 130. Output that fails ends nothing."""
        output.protect()
        places.share_cores()
        try:
            with faults_in_one_line():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except click.NoSuchOption as error:
            if error.option_name != "--study" or error.ctx is None:
                raise
            # `run` and evaluate.py have that option
            said = f"The study stands without an option: {error.ctx.command_path} STUDY"
            raise click.UsageError(said, error.ctx) from None
        except (click.ClickException, click.exceptions.Exit):
            raise  # `--help` and a wrong option need no storage to be told apart from its errors
        except Exception as error:
            from service.storage import database, outages  # import Optuna

            if not outages.is_storage_error(error):
                raise
            settings = Settings.from_environment()
            click.echo(f"error: {settings.storage_shown}: {database.told(error, settings.url)}", err=True)
            ctx.exit(os.EX_TEMPFAIL if outages.is_outage(error) else 2)


def _show_versions(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from service.trials import provenance  # asks git

        click.echo(provenance.shown())
        context.exit()


@click.group(cls=_Verbs)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_versions,
    help="Show the versions of this and of what it stands on, and exit.",
)
def cli() -> None:
    """Hyperparameter optimization for small language models."""


for _verb in (
    *running.VERBS,
    *checking.VERBS,
    *reading.VERBS,
    *of_the_winner.COMMANDS,
    *of_the_catalogue.COMMANDS,
):
    cli.add_command(_verb)

if __name__ == "__main__":
    cli(prog_name="python -m service")
