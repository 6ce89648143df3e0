"""A thousand generated inputs: each is taken, or refused in one line that shows no secret, within a time limit.

`tests/fuzzed.py` makes them; a case is made again from its number alone: `study_file(417)`.
"""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner

from model.config.data import DataConfig
from model.config.section import validate
from model.config.yaml_tree import Document
from model.data import corpus
from model.errors import UserError
from service import addresses
from service.__main__ import cli
from service.dashboard.serve import read_password
from service.machine import places
from service.settings import Settings
from service.storage.artifact_stores import open_store
from service.storage.database import open_storage
from service.study import definition
from tests.fuzzed import SECRET, address, data_file, environment, study_file

SECONDS = 60
"""For one case, which takes some hundredths of a second on a machine that does nothing else."""


class TooSlowError(Exception):
    pass


@contextlib.contextmanager
def limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TooSlowError

    former = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def try_all(cases: int, attempt: Callable[[int], object]) -> None:
    """Fails with the numbers of all the cases that end otherwise than they may; some must be taken, some refused."""
    faults: list[str] = []
    taken = refused = 0
    for number in range(cases):
        try:
            with limited():
                attempt(number)
            taken += 1
        except UserError as error:
            refused += 1
            if len(str(error).splitlines()) != 1 or SECRET in str(error):
                faults.append(f"{number}: {str(error)[:300]!r}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            faults.append(f"{number}: {type(error).__name__}: {str(error)[:300]}")
    assert not faults, "\n".join(faults)
    assert min(taken, refused) > cases // 50


def test_study_files(tmp_path):
    path = tmp_path / "fuzzed" / "study.yaml"
    path.parent.mkdir()

    def attempt(number: int) -> None:
        path.write_bytes(study_file(number))
        definition.load(path, scale=random.Random(number).choice([None, None, None, "half"]))

    try_all(250, attempt)


def test_data_files(tmp_path):
    def attempt(number: int) -> None:
        suffix, content, column = data_file(number)
        path = tmp_path / f"titles.{suffix}"
        path.write_bytes(content)
        given = {"source": "file", "path": str(path), "column": column}
        corpus.build(validate(Document("file", given), DataConfig), cache=tmp_path)

    try_all(400, attempt)


def test_addresses(tmp_path):
    def attempt(number: int) -> None:
        settings = Settings(address(number, tmp_path), "a", tmp_path)
        url = settings.url
        if SECRET in (url.username or ""):
            return  # the colon has gone, and a user's name is no secret
        assert SECRET not in addresses.shown(url)
        if url.get_backend_name() == "sqlite":
            inside = str(url.database).startswith(f"{tmp_path}/") and "/.." not in str(url.database)
            open_storage(settings, create=inside and number % 10 == 0).engine.dispose()
        elif (url.host, url.port) == ("127.0.0.1", 1) and not {"host", "port"} & url.query.keys():
            open_storage(settings).engine.dispose()

    try_all(200, attempt)


def test_environments(tmp_path):
    from model.hardware import device

    def attempt(number: int) -> None:
        variables = environment(number, tmp_path)
        result = CliRunner(
            env={name: value for name, value in variables.items() if "\0" not in value}
        ).invoke(cli, ["status", "nosuch"])
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert len(result.stderr) < 1100
        assert isinstance(result.exception, SystemExit)
        settings = Settings.from_environment(variables)
        places.places(settings, workers=None)
        device.choose(settings.device, threads=1)
        open_store(settings.artifacts)
        read_password(variables)

    try_all(150, attempt)


def test_the_limit_holds():
    def attempt(_: int) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        time.sleep(5)

    with pytest.raises(AssertionError, match="TooSlowError"):
        try_all(1, attempt)
