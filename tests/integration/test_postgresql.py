"""Workers on a real PostgreSQL server that restarts, hangs and is cut off under them."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from service.storage.database import open_storage
from service.storage.outages import StorageError

pytestmark = pytest.mark.integration

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def finished(study):
    return [trial for trial in study.trials() if trial.state in FINISHED]


def start(study, **pipes):
    command = study.command("work", "tiny", "--threads", "1", "--json")
    return subprocess.Popen(**command, stdout=subprocess.PIPE, **pipes)


def wait_for(process, event):
    for line in process.stdout:
        found = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(f"the worker ended without {event!r}")


def test_a_worker_on_postgresql_does_what_one_on_sqlite_does(tiny_on_postgresql, finished_values):
    tiny_on_postgresql.create(3)
    tiny_on_postgresql.worker().work()
    assert [trial.value for trial in tiny_on_postgresql.trials()] == finished_values


@pytest.fixture(scope="module")
def finished_values(request):
    return [trial.value for trial in request.getfixturevalue("finished").trials()]


def test_a_restart_during_training_is_waited_for(tiny_on_postgresql, postgresql, finished_values):
    tiny_on_postgresql.create(3)
    with start(tiny_on_postgresql) as worker:
        wait_for(worker, "rung")
        postgresql.stop("immediate")
        waiting = wait_for(worker, "waiting for the storage")
        postgresql.start()
        worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert waiting["level"] == "warning"
    assert [trial.value for trial in finished(tiny_on_postgresql)] == finished_values
    assert {trial.state for trial in tiny_on_postgresql.trials()} <= {TrialState.COMPLETE, TrialState.FAIL}


@pytest.mark.slow
def test_a_server_that_says_nothing_for_half_a_minute_is_waited_for(
    tiny_on_postgresql, postgresql, finished_values
):
    tiny_on_postgresql.create(3)
    with start(tiny_on_postgresql) as worker:
        wait_for(worker, "rung")
        postgresql.signal(signal.SIGSTOP)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(timeout=30)
        finally:
            postgresql.signal(signal.SIGCONT)
        worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert [trial.value for trial in finished(tiny_on_postgresql)] == finished_values


def test_patience_has_an_end_and_what_was_trained_is_gone_on_with(
    tiny_on_postgresql, postgresql, finished_values
):
    impatient = dataclasses.replace(
        tiny_on_postgresql,
        settings=dataclasses.replace(tiny_on_postgresql.settings, patience_seconds=2.0),
    )
    impatient.create(3)
    with start(impatient, stderr=subprocess.PIPE) as worker:
        wait_for(worker, "rung")
        postgresql.stop("immediate")
        try:
            _, error = worker.communicate(timeout=60)
        finally:
            postgresql.start()
    assert worker.returncode == os.EX_TEMPFAIL
    assert error.startswith("error: the storage is away (")
    assert error.count("\n") == 1
    tiny_on_postgresql.worker().work()
    assert len(finished(tiny_on_postgresql)) == 3
    assert finished_values[0] in [trial.value for trial in finished(tiny_on_postgresql)]


def test_stopping_does_not_wait_for_a_storage_that_is_away(tiny_on_postgresql, postgresql):
    tiny_on_postgresql.create(1)
    with start(tiny_on_postgresql) as worker:
        wait_for(worker, "rung")
        postgresql.stop("immediate")
        try:
            wait_for(worker, "waiting for the storage")
            worker.send_signal(signal.SIGTERM)
            worker.communicate(timeout=20)
        finally:
            postgresql.start()
    assert worker.returncode == os.EX_TEMPFAIL
    tiny_on_postgresql.worker().work()
    assert len(finished(tiny_on_postgresql)) == 1


def test_a_worker_that_is_started_while_the_server_is_away_waits(
    tiny_on_postgresql, postgresql, finished_values
):
    tiny_on_postgresql.create(1)
    postgresql.stop("immediate")
    try:
        with start(tiny_on_postgresql) as worker:
            wait_for(worker, "waiting for the storage")
            postgresql.start()
            worker.communicate(timeout=60)
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):  # it runs
            postgresql.start()
    assert worker.returncode == 0
    assert [trial.value for trial in finished(tiny_on_postgresql)] == finished_values[:1]


@pytest.mark.slow
def test_workers_outlive_an_outage_longer_than_their_patience(
    tiny_on_postgresql, postgresql, finished_values
):
    settings = dataclasses.replace(tiny_on_postgresql.settings, patience_seconds=1.0, lease_seconds=60.0)
    impatient = dataclasses.replace(tiny_on_postgresql, settings=settings)
    impatient.create(2)
    command = impatient.command("workers", "tiny", "--workers", "1")
    with subprocess.Popen(**command, stdout=subprocess.PIPE) as workers:
        wait_for(workers, "rung")
        postgresql.stop("immediate")
        try:
            for _ in range(2):
                wait_for(workers, "worker 0 has waited long enough for the storage, starting it anew")
        finally:
            postgresql.start()
        begun = time.monotonic()
        workers.communicate(timeout=120)
    assert workers.returncode == 0
    values = [trial.value for trial in finished(tiny_on_postgresql)]
    assert (values[0], len(values)) == (
        finished_values[0],
        2,
    )  # the second is drawn by a worker of another number
    # taken up under the same name: the lease was not waited for, and no attempt was counted
    assert time.monotonic() - begun < 55


def test_a_role_that_may_only_read_is_refused_in_one_line(tiny_on_postgresql):
    tiny_on_postgresql.create(1)
    url = sa.make_url(tiny_on_postgresql.settings.storage_url)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE reader_{url.database} LOGIN")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{url.database}")
    engine.dispose()
    shown = url.set(username=f"reader_{url.database}").render_as_string()
    reader = dataclasses.replace(
        tiny_on_postgresql, settings=dataclasses.replace(tiny_on_postgresql.settings, storage_url=shown)
    )
    for verb in (("create", str(reader.file), "--trials", "+1"), ("work", "tiny")):
        done = subprocess.run(**reader.command(*verb), capture_output=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(f"error: {shown}: permission denied for ")


def test_a_server_that_is_not_there_is_one_line_at_the_start(tiny_on_postgresql):
    away = dataclasses.replace(
        tiny_on_postgresql.settings, storage_url="postgresql+psycopg://hptune:secret@127.0.0.1:1/none"
    )
    with pytest.raises(StorageError) as caught:
        open_storage(away)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_several_processes_make_one_study(tiny_on_postgresql):
    commands = [
        tiny_on_postgresql.command("create", str(tiny_on_postgresql.file), "--trials", "4") for _ in range(3)
    ]
    processes = [subprocess.Popen(**command) for command in commands]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert tiny_on_postgresql.slots()["open"] == 4


def test_a_worker_that_was_cut_off_finds_its_trial_taken_over(tiny_on_postgresql, finished_values):
    tiny_on_postgresql.create(1)
    with start(tiny_on_postgresql) as cut_off:
        wait_for(cut_off, "rung")
        cut_off.send_signal(signal.SIGSTOP)
        try:
            tiny_on_postgresql.worker().work()  # waits for the lease of one second to run out
        finally:
            cut_off.send_signal(signal.SIGCONT)
        output, _ = cut_off.communicate(timeout=60)
    assert cut_off.returncode == 0
    assert "trial taken over by another worker" in output
    former, heir = tiny_on_postgresql.trials()
    assert (former.state, heir.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert former.user_attrs["ended"] == "its worker died or was cut off"
    assert len(former.intermediate_values) < 3
    assert heir.value == finished_values[0]


class SlowProxy:
    """Passes bytes on to a server, each piece of an answer after a delay."""

    def __init__(self, port, delay):
        self._port = port
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for source, target, delay in ((client, server, 0), (server, client, self._delay)):
                    threading.Thread(target=self._pass_on, args=(source, target, delay), daemon=True).start()

    def _pass_on(self, source, target, delay):
        with source, target, contextlib.suppress(OSError):
            while piece := source.recv(65536):
                time.sleep(delay)
                target.sendall(piece)


def test_a_server_that_answers_slowly_costs_time_and_nothing_else(
    tiny_on_postgresql, postgresql, finished_values
):
    tiny_on_postgresql.create(3)
    proxy = SlowProxy(postgresql.port, delay=0.03)
    url = tiny_on_postgresql.settings.storage_url.replace(f":{postgresql.port}/", f":{proxy.port}/")
    slow = dataclasses.replace(
        tiny_on_postgresql, settings=dataclasses.replace(tiny_on_postgresql.settings, storage_url=url)
    )
    try:
        slow.worker().work()
    finally:
        proxy.close()
    assert [trial.value for trial in tiny_on_postgresql.trials()] == finished_values


THIRTY_TWO = """
import os
from service.settings import Settings
from tests.fast_run import fork_worker, train_fast
train_fast()
workers = [fork_worker(Settings.from_environment(), "tiny", f"worker {i}") for i in range(32)]
print([os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers])
"""


@pytest.mark.slow
def test_thirty_two_workers_finish_exactly_what_was_asked_for(tiny_on_postgresql):
    tiny_on_postgresql.create(100)
    patient = dataclasses.replace(
        tiny_on_postgresql.settings, lease_seconds=60.0
    )  # two cores for all of them
    command = dataclasses.replace(tiny_on_postgresql, settings=patient).command() | {
        "args": [sys.executable, "-c", THIRTY_TWO]
    }
    done = subprocess.run(**command, stdout=subprocess.PIPE, check=True, timeout=400)
    assert json.loads(done.stdout) == [0] * 32
    trials = tiny_on_postgresql.trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 100
    assert len({trial.params["optimizer.lr"] for trial in trials}) == 100
    assert tiny_on_postgresql.slots() == {"open": 0, "leased": 0, "held": 0, "closed": 100}
