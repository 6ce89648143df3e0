from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ConfigError, UserError
from service import addresses
from service.settings import Settings
from service.storage.database import open_storage

AMBIGUOUS = "can be read in more than one way"
SECRET = "S3CR3Tq"

REFUSED = [
    (f"postgresql+psycopg://u:my@pa:{SECRET}@127.0.0.1/db", "not a database URL"),
    (f"postgresql+psycopg://u:{SECRET}@h:port/db", "not a database URL"),
    (f"postgresql+psycopg://u:{SECRET}", "not a database URL"),
    (f"postgresql+psycopg://u:p@ss/{SECRET}@h", AMBIGUOUS),
    (f"postgresql+psycopg://u:p@ss?{SECRET}@h/db", AMBIGUOUS),
    (f"postgresql+psycopg://u/{SECRET}@h/db", AMBIGUOUS),
    (f"postgresql+psycopg://u:{SECRET} {{}}@h h/db", AMBIGUOUS),
    (f"postgresql+psycopg://u:{SECRET}@h:70000/db", "the port must be a number from 1 to 65535"),
    (f"postgresql+psycopg://u:{SECRET}%00@h/db", "has a NUL character"),
    (f"postgresql+psycopg://u:{SECRET}@h/db\r", "has a line break"),
    (f"postgresql+asyncpg://u:{SECRET}@h/db", "a driver that is not supported"),
    (f"postgres://u:{SECRET}@h/db", "a driver that is not supported"),
    (f"mysql+pymysql://u:{SECRET}@h/db", "a driver that is not supported"),
    (f"sqlite://u:{SECRET}@h/x.db", "SQLite takes three slashes"),
    (f"sqlite:///x.db?password={SECRET}", "SQLite takes a path and no options"),
    ("sqlite:///:memory:", "SQLite needs the path of a file"),
    ("sqlite://", "SQLite needs the path of a file"),
    ("sqlite:///file:x?mode=memory&uri=true", "SQLite takes a path and no options"),
    (f"u:{SECRET}@h/db", "not a database URL"),
    (f'"postgresql+psycopg://u:{SECRET}@h/db"', "not a database URL"),
]


@pytest.mark.parametrize(("address", "why"), REFUSED)
def test_what_can_be_misread_is_refused_and_not_repeated(address, why):
    with pytest.raises(ConfigError) as caught:
        addresses.parse(address)
    message = str(caught.value)
    assert message.startswith("HPTUNE_STORAGE_URL: ")
    assert why in message
    assert message.endswith("; allowed: sqlite:///file.db, postgresql+psycopg://user:password@host/database")
    assert SECRET not in message
    assert "\n" not in message


def test_what_is_escaped_is_understood():
    url = addresses.parse("postgresql+psycopg://u:p%40s%3As%2Fw%3F%23%25@h:5432/db")
    assert (url.password, url.host, url.port, url.database) == ("p@s:s/w?#%", "h", 5432, "db")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"postgresql+psycopg://u:{SECRET}@h/db", "postgresql+psycopg://u:***@h/db"),
        (f"postgresql+psycopg://u@h/db?password={SECRET}", "postgresql+psycopg://u@h/db?***"),
        (f"postgresql://h/db?sslmode=require&sslpassword={SECRET}", "postgresql://h/db?***"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("sqlite:////größe a/50%25%3F.db", "sqlite:////größe a/50%25%3F.db"),
    ],
)
def test_an_address_is_shown_without_password_and_options(address, shown):
    assert addresses.shown(addresses.parse(address)) == shown


def test_secrets_are_masked_in_what_a_driver_says():
    url = addresses.parse("postgresql+psycopg://u:s3@h/db?sslpassword=s3cret&sslmode=require")
    said = 'no password "s3cret" for "s3", and SSL is required'
    assert addresses.without_secrets(said, url) == 'no password "***" for "***", and SSL is required'


passwords = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(
    lambda text: f"{text}{SECRET}{text}"
)


@given(
    password=passwords, escaped=st.booleans(), place=st.sampled_from(["user", "query", "host", "database"])
)
def test_no_message_shows_a_password_however_it_is_written(password, escaped, place):
    written = (
        sa.URL.create("x", username="u", password=password).render_as_string(False)[6:-1]
        if escaped
        else password
    )
    address = {
        "user": f"postgresql+psycopg://u:{written}@127.0.0.1:1/db",
        "query": f"postgresql+psycopg://u@127.0.0.1:1/db?password={written}&connect_timeout=x{written}",
        "host": f"postgresql+psycopg://u:a@{written}@127.0.0.1:1/db",
        "database": f"postgresql+psycopg://u:a@b/{written}@127.0.0.1:1/db",
    }[place]
    settings = Settings(address, "a", Path("c"))
    with pytest.raises(UserError) as caught:
        open_storage(settings)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
