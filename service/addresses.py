"""The storage's address: taken apart strictly, and shown without what may be secret in it.

SQLAlchemy reads a URL leniently: of a password with an unescaped `@` or `:` the rest lands in host, port or database,
which its messages show. Here an address that can be read in two ways is refused, and no message repeats one that was.
"""

import re

import sqlalchemy as sa

from model.errors import ConfigError

_ALLOWED = "allowed: sqlite:///file.db, postgresql+psycopg://user:password@host/database"
_ESCAPES = "in a user name or a password @ : / ? # % are written %40 %3A %2F %3F %23 %25"
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")
_SECRET_OPTIONS = re.compile("pass|secret|key", re.IGNORECASE)
"""Keys of a query whose values are masked in what a driver says."""


def parse(address: str) -> sa.URL:
    """The URL of a database that this project works with.

    Raises:
        ConfigError: it is none, or it can be read in more than one way. Nothing of it is repeated.
    """
    if not address.isprintable():
        raise _refused("has a line break or another character that cannot be printed")
    try:
        url = sa.make_url(address)
    except (sa.exc.ArgumentError, ValueError):  # the latter for a port that is no number
        raise _refused(f"not a database URL; {_ESCAPES}") from None
    if url.drivername not in _DRIVERS:
        raise _refused("names a database or a driver that is not supported")
    refuse = _refuse_sqlite if url.get_backend_name() == "sqlite" else _refuse_postgresql
    refuse(url, address)
    return url


def _refuse_sqlite(url: sa.URL, _address: str) -> None:
    if url.username is not None or url.host is not None or url.port is not None:
        raise _refused("SQLite takes three slashes and a path, a fourth one for a path from the root")
    if url.query:
        raise _refused("SQLite takes a path and no options; a ? in a path is written %3F")
    if not url.database or url.database.startswith((":memory:", "file:")) or "\0" in url.database:
        raise _refused("SQLite needs the path of a file, which several processes can open")


def _refuse_postgresql(url: sa.URL, address: str) -> None:
    ambiguous = address.count("@") != (url.username is not None)
    if ambiguous or not re.fullmatch(r"[\w.,:%-]*", url.host or ""):
        raise _refused(f"can be read in more than one way; {_ESCAPES}")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise _refused("the port must be a number from 1 to 65535")
    if any("\0" in (part or "") for part in (url.username, url.password, url.database)):
        raise _refused("has a NUL character, which PostgreSQL cannot take")


def _refused(why: str) -> ConfigError:
    return ConfigError(f"HPTUNE_STORAGE_URL: {why}; {_ALLOWED}")


def shown(url: sa.URL) -> str:
    """The URL for messages: its password and all of its options masked, letters of any language as they are."""
    if url.get_backend_name() == "sqlite" and url.database:
        return f"{url.drivername}:///" + re.sub("[%?#]", lambda sign: f"%{ord(sign[0]):02X}", url.database)
    return url.set(query={}).render_as_string(hide_password=True) + ("?***" if url.query else "")


def without_secrets(text: str, url: sa.URL) -> str:
    """What a driver or a library said of the database at `url`, the secrets of the URL masked in it."""
    secrets = {str(url.password or "")}
    for key, values in url.query.items():
        if _SECRET_OPTIONS.search(key):
            secrets |= {values} if isinstance(values, str) else set(values)
    secrets |= {repr(secret)[1:-1] for secret in secrets}  # as drivers quote what they do not understand
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
