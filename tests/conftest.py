"""A study so small that a trial takes half a second, and what runs it."""

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
import sqlalchemy as sa
import structlog
import torch
from alembic.util import pyfiles
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial

from service.confirmation.elimination import drops
from service.machine.create import create
from service.settings import Settings
from service.storage.opened_study import open_study
from service.storage.optuna_tables import insert_study
from service.storage.schema import GENERATION, create_tables
from service.study import proof
from service.trials.worker import Worker
from tests.hub import Hub

# what an example takes says more of the load of the machine than of the code
hypothesis.settings.register_profile("hptune", deadline=None)
hypothesis.settings.load_profile("hptune")
# a shell starts what it runs in the background with these ignored, and so does nohup; tests send them
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@sa.event.listens_for(sa.Engine, "connect")
def _leave_the_disk_alone(connection, _record):
    # a test does not outlive a power cut; making the tables of a study waits for the disk 15 times otherwise
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


ROOT = Path(__file__).resolve().parents[1]
WORDS = (
    "a", "the", "old", "new", "red", "cat", "dog", "tree", "runs", "sees", "finds", "small", "green", "house",
    "river", "stone", "bird", "code", "in", "on",
)  # fmt: skip
TINY = {
    "data.num_documents": 1000,
    "data.held_out_documents": 200,
    "tokenizer.vocab_size": 300,
    "model.n_layer": 1,
    "model.n_head": 1,
    "model.d_model": 16,
    "model.block_size": 16,
    "evaluation.block_size": 16,
    "training.epochs": "null",
    "training.tokens": 9_000,
    "training.batch_size": 8,
    "training.rungs": 3,
}
"""Settings by dotted key of a run so small that it takes half a second."""
SPACE = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
sampler: {name: random}
"""


@dataclass(frozen=True)
class TinyStudy:
    """A study file, a corpus and a place of their own in one folder."""

    folder: Path
    settings: Settings

    @property
    def file(self) -> Path:
        return self.folder / "tiny" / "study.yaml"

    def write(self, body: str = SPACE, *, source: str = "file", **fixed: Any) -> None:
        keys = {"data.source": source, **TINY, **fixed}
        if source == "file":
            keys["data.path"] = self.folder / "corpus.txt"
        lines = "".join(f"  {key}: {value}\n" for key, value in keys.items() if value is not None)
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(f"question: Does it work?\nfixed:\n{lines}{body}")

    def write_corpus(self, *, seed: int = 0) -> None:
        (self.folder / "corpus.txt").write_text("".join(f"{text}\n" for text in sentences(seed)))

    def create(self, more: int | None = None, **arguments: Any) -> None:
        create(self.settings, str(self.file), **{"overrides": {}, "more": more, "say": print} | arguments)

    def worker(self) -> Worker:
        log = structlog.get_logger()
        return Worker(
            self.settings, "tiny", owner=uuid.uuid4().hex, threads=1, parent=None, drops=drops, log=log
        )

    def trials(self) -> list[FrozenTrial]:
        opened = open_study(self.settings, "tiny")
        try:
            return opened.study.get_trials()
        finally:
            opened.close()

    def slots(self) -> dict[str, int]:
        opened = open_study(self.settings, "tiny")
        try:
            return opened.slots.counts()
        finally:
            opened.close()

    def command(self, *arguments: str) -> dict[str, Any]:
        """What subprocess needs to run a verb on this study."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HPTUNE_STORAGE_URL": self.settings.storage_url,
            "HPTUNE_ARTIFACTS": self.settings.artifacts,
            "HPTUNE_CACHE": str(self.settings.cache),
            "HPTUNE_DEVICE": "cpu",
            "HPTUNE_LOG": "json",
            "HPTUNE_LEASE_SECONDS": str(self.settings.lease_seconds),
            "HPTUNE_PATIENCE_SECONDS": str(self.settings.patience_seconds),
        }
        return {"args": [sys.executable, "-m", "service", *arguments], "env": environment, "text": True}


@dataclass
class PostgreSQL:
    """A private cluster, run by the system's `postgres` account where the tests are root."""

    programs: Path
    folder: Path
    port: int
    databases: int = 0

    def initialise(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", self.data, "-U", "hptune", "--auth=trust", "--no-sync")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        options += " -c max_connections=400"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self.data, "-o", options, "-l", log, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def signal(self, number: int) -> None:
        """To every process of the server."""
        postmaster = int((Path(self.data) / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def new_database(self) -> str:
        """The URL of an empty database."""
        self.databases += 1
        name = f"test_{os.getpid()}_{self.databases}"
        with psycopg.connect(self._url("postgres", "postgresql"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._url(name, "postgresql+psycopg")

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def _url(self, database: str, scheme: str) -> str:
        return f"{scheme}://hptune@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        account: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        with (self.folder / "output").open("a") as output:
            subprocess.run(
                [self.programs / program, *arguments],
                check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, **account,
            )  # fmt: skip


def make_two_studies(engine: sa.Engine) -> None:
    """The tables of Optuna and of this project, and studies 1 and 2, of generations `g` and `h`."""
    models.BaseModel.metadata.create_all(engine)
    create_tables(engine)
    for name in "gh":
        insert_study(engine, name, user_attributes={GENERATION: name}, system_attributes={})


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def sentences(seed: int) -> list[str]:
    generator = random.Random(seed)
    drawn = (" ".join(generator.choices(WORDS, k=6)) for _ in range(1500))
    return list(dict.fromkeys(drawn))


def tiny_study(folder: Path) -> TinyStudy:
    places = Settings(
        storage_url=f"sqlite:///{folder / 'study.db'}",
        artifacts=str(folder / "artifacts"),
        cache=folder / "cache",
        curves=folder / "curves",
        device="cpu",
        lease_seconds=1.0,
    )
    study = TinyStudy(folder, places)
    study.write_corpus()
    study.write()
    return study


@pytest.fixture
def one_thread():
    """Tiny products are slower in several threads, and bits repeat under the same number of threads alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def no_waiting() -> Iterator[None]:
    """Files are not written through to the disk, and what every opening of a storage does is done once.

    A space is proven at some random points, but in the tests of `service.study`, which prove at all 2,000. Optuna's ten
    migration scripts are executed once in a process, and not one to three times for each storage that is opened.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(pyfiles, "load_module_py", functools.cache(pyfiles.load_module_py))
        patch.setattr(proof, "RANDOM_POINTS", 50)
        yield


@pytest.fixture
def tiny(tmp_path) -> TinyStudy:
    return tiny_study(tmp_path)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server of the tests' own, without a password, on a free port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("no PostgreSQL server is installed (Debian: apt install postgresql)")
    # not among pytest's own folders, which are closed to the account that runs the server
    with tempfile.TemporaryDirectory(prefix="hptune-postgresql-") as folder:
        server = PostgreSQL(found[-1].parent, Path(folder), free_port())
        server.initialise()
        server.start()
        yield server
        server.stop("immediate")


@pytest.fixture
def tiny_on_postgresql(tmp_path, postgresql) -> TinyStudy:
    """A tiny study in a database of its own."""
    study = tiny_study(tmp_path)
    return replace(study, settings=replace(study.settings, storage_url=postgresql.new_database()))


@pytest.fixture(autouse=True)
def logs_as_they_come() -> Iterator[None]:
    """What a command that was called here has set of the logs is not left to the next test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> TinyStudy:
    """A study with three complete trials; its tests do not change its trials."""
    study = tiny_study(tmp_path_factory.mktemp("finished"))
    study.write(SPACE + "keep_checkpoints: 2\n")
    study.create(3)
    study.worker().work()
    return study


@pytest.fixture
def hub_environment(tmp_path, monkeypatch):
    """An empty cache of the hub's library, and nothing from the environment."""
    from huggingface_hub import close_session, constants

    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    close_session()
    yield
    close_session()


@pytest.fixture
def hub(tmp_path, monkeypatch, hub_environment):
    """A hub of this test's own, without repositories."""
    import datasets

    (tmp_path / "hub").mkdir()
    with Hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def no_connection(monkeypatch, hub_environment):
    """Takes the hub away: every connection is refused."""
    with socket.socket() as reserved:  # bound and not listening
        reserved.bind(("127.0.0.1", 0))

        def disconnect():
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{reserved.getsockname()[1]}")

        yield disconnect
