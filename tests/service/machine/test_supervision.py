"""What the supervisor makes of its workers' ends, signals and output; the workers are shell scripts here."""

import os
import signal
import stat
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.machine import supervisor
from service.machine.places import Place
from service.machine.supervisor import RESTARTS, Supervisor
from service.storage.claims import Claims
from service.storage.schema import StudyKey
from service.storage.slots import SEEN_FAILURE, Slots
from tests.conftest import make_two_studies

RUNG = """echo '{"event": "rung", "trial": 0}'"""


@dataclass
class Seen:
    """A view that keeps what it is shown."""

    lines: list = field(default_factory=list)
    broken: bool = False
    answered: Path | None = None
    """Is made when a signal is answered."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace): ...

    def take(self, index, event):
        if self.broken:
            raise KeyError("val_loss")
        self.lines.append(event)

    def say(self, line):
        self.lines.append(line)
        if self.answered and line.startswith("stopping: "):
            self.answered.touch()

    def gone(self, index): ...


@pytest.fixture
def slots(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'slots.db'}")
    make_two_studies(engine)
    yield Slots(engine, StudyKey(1, "g"))
    engine.dispose()


@pytest.fixture
def supervise(tmp_path, monkeypatch, slots):
    """Runs a supervisor whose worker does, life after life, what the scripts say; its status and the owners."""
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF_SECONDS", 0.0)

    def run(*lives, view=None, workers=1):
        for number, life in enumerate(lives):
            (tmp_path / f"life{number}").write_text(life)
        program = tmp_path / "python"
        life = "$(cut -d: -f2 <<<$2)" if workers > 1 else "$(ls | grep -c started)"
        program.write_text(
            f"#!/bin/bash\ncd {tmp_path}\n"
            'while [ "$1" != --owner ]; do shift; done\n'
            f'life={life}\necho "$2" >>owners\ntouch started$life\n'
            f". ./life$((life < {len(lives)} ? life : {len(lives) - 1}))\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(program))
        places = [Place(None, 1)] * workers
        status = Supervisor("tiny", slots=slots, places=places, view=view or Seen()).run()
        return status, (tmp_path / "owners").read_text().split()

    return run


def test_a_storage_that_stays_away_is_waited_for_again_and_again_under_one_name(supervise):
    status, owners = supervise(*["exit 75"] * (RESTARTS + 3), "exit 0")
    assert status == 0
    assert len(owners) == RESTARTS + 4
    assert len(set(owners)) == 1  # so that it takes up its own lease, and no attempt is counted


@pytest.mark.parametrize("death", ["exit 1", "kill -9 $$", "kill -SEGV $$"])
def test_a_worker_that_dies_without_getting_on_is_given_up(supervise, death):
    seen = Seen()
    status, owners = supervise(death, view=seen)
    assert status == 1
    assert len(owners) == len(set(owners)) == RESTARTS + 1
    assert seen.lines[-1].endswith(", once too often")


def test_a_worker_that_gets_on_is_started_again_as_often_as_it_dies(supervise):
    status, owners = supervise(*[f"{RUNG}\nexit 1"] * (RESTARTS + 3), "exit 0")
    assert (status, len(owners)) == (0, RESTARTS + 4)


def test_what_only_the_user_can_mend_is_not_tried_again(supervise):
    status, owners = supervise("exit 2")
    assert (status, len(owners)) == (1, 1)


def test_what_a_crashed_worker_held_is_free_and_counts_as_an_attempt(supervise, slots, tmp_path):
    slots.total(1)
    lease = "UPDATE hptune_slots SET state='leased', owner=?, leased_until=9e9"
    python = f"""/usr/bin/env python3 -c "import sqlite3, sys; c = sqlite3.connect('{tmp_path}/slots.db')
c.execute(\\"{lease}\\", sys.argv[1:]); c.commit()" "$2"
"""
    status, _ = supervise(f"{python}\nexit 1", "exit 0")
    assert status == 0
    slot = Claims(slots, owner="heir", lease_seconds=60).claim()
    assert slot is not None
    assert (slot.attempts, slot.lost) == (SEEN_FAILURE, "its worker was ended by a crash (status 1)")


JUNK = r"""
printf '\xff\xfe not UTF-8\n'
printf '{"event": "rung"}\n{"event": 7, "x": [1]}\n'
head -c 100000 /dev/zero | tr '\0' '['; echo
for i in $(seq 3000); do echo "much $i much $i much $i much $i much $i"; done
exit 0
"""


@pytest.mark.parametrize("broken", [False, True])
def test_whatever_a_worker_writes_is_read_and_ends_nothing(supervise, broken):
    seen = Seen(broken=broken)
    status, owners = supervise(JUNK, view=seen)
    assert (status, len(owners)) == (0, 1)
    assert any("much 3000" in str(line) for line in seen.lines)
    assert any("not UTF-8" in str(line) for line in seen.lines)


# SIGTERM is blocked before the file that calls for it is there, so none is lost and none comes in between
WAITS = r"""
import pathlib, signal, sys, time
life, terms, until, status = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
signal.alarm(300)
pathlib.Path(f"ready{life}").touch()
for number in range(terms):
    signal.sigwait({signal.SIGTERM})
    pathlib.Path(f"term{life}.{number}").touch()
while until and not pathlib.Path(until).exists():
    time.sleep(0.02)
if status == 0:
    pathlib.Path(f"saved{life}").touch()
sys.exit(status)
"""


def waits(*, terms=1, until="", status=0):
    """A life that is ready for SIGTERM, saves after so many of them and once the file `until` is there, and ends."""
    # `supervise` gives the supervisor another executable
    return f"exec '{sys.executable}' -S -I -c '{WAITS}' $life {terms} '{until}' {status}"


def files(folder, pattern):
    return sorted(path.name for path in folder.glob(pattern))


def test_a_fault_of_the_supervisor_itself_lets_its_workers_save(supervise, tmp_path):
    class Faulty(Seen):
        def gone(self, index):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        supervise("until [ -e ready1 ]; do sleep 0.05; done", waits(), view=Faulty(), workers=2)
    assert files(tmp_path, "saved*") == ["saved1"]


@pytest.fixture
def send(tmp_path, monkeypatch):
    """Sends this process signals: the first when its workers are ready, each further one when all have had the last.

    Each counts, however soon it follows.
    """
    monkeypatch.setattr(supervisor, "ECHO_SECONDS", 0.0)
    threads = []

    def start(*numbers, ready=1):
        def act():
            wanted = "ready*"
            for order, number in enumerate(numbers):
                end = time.monotonic() + 120
                while len(files(tmp_path, wanted)) < ready:
                    assert time.monotonic() < end, (wanted, files(tmp_path, "*"))
                    time.sleep(0.02)
                os.kill(os.getpid(), number)
                wanted = f"term*.{order}"
            (tmp_path / "sent").touch()

        threads.append(threading.Thread(target=act))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_answered_while_the_workers_still_save(supervise, send, tmp_path, number):
    seen = Seen(answered=tmp_path / "answered")
    send(number, ready=2)
    status, owners = supervise(waits(until="answered"), view=seen, workers=2)
    what = (seen.lines, files(tmp_path, "*"))
    assert (status, len(owners)) == (130, 2), what
    assert files(tmp_path, "saved*") == ["saved0", "saved1"], what
    assert seen.lines[-1] == "stopped: every trial's state is saved", what


def test_a_second_ctrl_c_kills_and_does_not_say_that_anything_was_saved(supervise, send, tmp_path):
    seen = Seen()
    send(signal.SIGINT, signal.SIGINT)
    status, _ = supervise(waits(until="never"), view=seen)
    assert (status, files(tmp_path, "saved*")) == (130, [])
    assert not [line for line in seen.lines if line.startswith("killing the workers that have not ended")]
    assert seen.lines[-1] == (
        "stopped: worker 0 ended without saving all; those trials resume from their last saved rung"
    )


def test_a_signal_to_it_and_to_its_group_has_come_once(supervise, send, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "ECHO_SECONDS", 600.0)
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 600.0)
    seen = Seen()
    send(signal.SIGTERM, signal.SIGTERM)
    status, _ = supervise(waits(until="sent"), view=seen)
    assert (status, files(tmp_path, "saved*"), files(tmp_path, "term*")) == (130, ["saved0"], ["term0.0"])
    assert seen.lines[-1] == "stopped: every trial's state is saved"


def test_a_closing_terminal_may_say_so_twice(supervise, send, tmp_path):
    seen = Seen()
    send(signal.SIGHUP, signal.SIGHUP)
    supervise(waits(terms=2), view=seen)
    assert files(tmp_path, "saved*") == ["saved0"], seen.lines
    assert seen.lines[-1] == "stopped: every trial's state is saved"


def test_a_worker_that_could_not_save_is_named(supervise, send):
    seen = Seen()
    send(signal.SIGINT, ready=2)
    supervise(waits(status=2), waits(), view=seen, workers=2)
    assert seen.lines[-1].startswith("stopped: worker 0 ended without saving all; "), seen.lines


def test_under_nohup_a_dead_terminal_stops_nothing(supervise, send):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        send(signal.SIGHUP)
        assert supervise("touch ready0; until [ -e sent ]; do sleep 0.05; done; exit 0")[0] == 0
    finally:
        signal.signal(signal.SIGHUP, former)
