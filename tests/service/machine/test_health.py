import dataclasses
import socket
import subprocess
import sys

import pytest

from service.machine.health import complaint
from service.storage.database import open_storage
from service.storage.ownership import key_of
from service.storage.roster import Roster
from service.storage.studies import load_study


@pytest.fixture
def roster(tiny):
    tiny.create(1)
    storage = open_storage(tiny.settings)
    yield Roster(storage.engine, key_of(load_study(storage, "tiny", tiny.settings)[0]), lease_seconds=60)
    storage.engine.dispose()


def test_workers_that_renew_are_healthy_and_those_of_another_container_do_not_count(tiny, roster):
    number = roster.register("a_b:0:x", device="cpu")
    assert complaint(tiny.settings, "a_b") is None
    for other in ("a_", "aXb", "%"):
        assert complaint(tiny.settings, other) == "no worker of this container is alive"
    roster.leave(number)
    assert complaint(tiny.settings, "a_b") == "no worker of this container is alive"


def test_without_a_storage_nothing_is(tiny):
    with socket.socket() as reserved:  # bound and not listening: every connection is refused
        reserved.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://hptune:secret@127.0.0.1:{reserved.getsockname()[1]}/hptune"
        said = complaint(dataclasses.replace(tiny.settings, storage_url=url), "host")
    assert said.startswith("the storage does not answer: ")
    assert "secret" not in said


def test_the_engine_reads_a_status_and_a_line(tiny, roster):
    command = tiny.command() | {"args": [sys.executable, "-m", "service.machine.health"]}
    done = subprocess.run(**command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "no worker of this container is alive\n", "")
    roster.register(f"{socket.gethostname()}:0:x", device="cpu")
    assert subprocess.run(**command, capture_output=True, check=False).returncode == 0
