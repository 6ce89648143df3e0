"""Whether this container's workers work: `python -m service.machine.health` ends with status 0, or says why not.

They do where they are entered as alive in the storage, which each renews while it trains. Asked once a minute, so
nothing of Optuna is imported.
"""

import socket
import sys

import sqlalchemy as sa

from model.errors import UserError
from service.settings import Settings
from service.storage.schema import WORKERS, database_time

SECONDS = 5
"""The database's time for an answer."""


def complaint(settings: Settings, host: str) -> str | None:
    """What is wrong with the workers of `host`; None where nothing is."""
    arguments = {"connect_timeout": SECONDS} if settings.url.get_backend_name() == "postgresql" else {}
    engine = sa.create_engine(settings.url, poolclass=sa.NullPool, connect_args=arguments)
    alive = (
        sa.select(sa.func.count())
        .select_from(WORKERS)
        .where(WORKERS.c.owner.startswith(f"{host}:", autoescape=True))
        .where(WORKERS.c.alive_until >= database_time(engine))
    )
    try:
        with engine.connect() as connection:
            return None if connection.execute(alive).scalar_one() else "no worker of this container is alive"
    except sa.exc.SQLAlchemyError as error:
        lines = str(getattr(error, "orig", error)).strip().splitlines() or [type(error).__name__]
        return f"the storage does not answer: {lines[0]}"


def main() -> int:
    """The exit status; what is wrong goes to standard output, where the engine keeps it."""
    try:
        found = complaint(Settings.from_environment(), socket.gethostname())
    except UserError as error:
        found = str(error)
    if found:
        print(found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
