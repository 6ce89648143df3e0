"""The worker processes of one machine, as `python -m service workers` runs them."""

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

LONG = {"training.tokens": 150_000, "training.rungs": 10}


@pytest.fixture
def supervised(tiny):
    """Two workers of one thread each, both in the middle of a trial."""
    tiny.write(**LONG)
    tiny.create(2)
    command = tiny.command("workers", "tiny", "--workers", "2")
    with subprocess.Popen(**command, stdout=subprocess.PIPE) as process:
        at_work = set()
        while len(at_work) < 2:
            at_work |= {event["worker"] for event in events(process, "rung") if event["event"] == "rung"}
        yield process
        process.kill()


def events(process, until):
    for line in process.stdout:
        event = json.loads(line)  # every line is JSON, whatever wrote it
        yield event
        if event["event"] == until:
            return


def children(process):
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_its_trial_gone_on_with(tiny, supervised):
    os.kill(children(supervised)[0], signal.SIGKILL)
    rest = list(events(supervised, None))
    assert all(event["study"] == "tiny" for event in rest)
    names = [event["event"] for event in rest]
    assert "worker 0 was killed (signal 9, as when the system is out of memory), starting it again" in names
    assert "resumed" in names
    assert supervised.wait(timeout=60) == 0
    # on a machine that starves its workers a lease may run out as well, so that there are more failed trials
    ended = "its worker was killed (signal 9, as when the system is out of memory)"
    (killed,) = (trial for trial in tiny.trials() if trial.user_attrs["ended"] == ended)
    assert killed.state == TrialState.FAIL
    assert [trial.state for trial in tiny.trials()].count(TrialState.COMPLETE) == 2
    assert killed.number in [trial.user_attrs.get("goes_on_with") for trial in tiny.trials()]


def test_a_signal_reaches_every_worker(tiny, supervised):
    supervised.send_signal(signal.SIGTERM)
    rest = [event["event"] for event in events(supervised, None)]
    assert rest[-1] == "stopped: every trial's state is saved"
    assert supervised.wait(timeout=60) == 130
    assert tiny.slots() == {"open": 2, "leased": 0, "held": 0, "closed": 0}
    assert [trial.user_attrs["ended"] for trial in tiny.trials()] == ["interrupted"] * 2


@pytest.mark.slow
def test_output_that_nobody_reads_any_more_ends_nothing(tiny, supervised):
    supervised.stdout.close()
    assert supervised.wait(timeout=120) == 0
    assert [trial.state for trial in tiny.trials()] == [TrialState.COMPLETE] * 2


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [True, False])
def test_a_terminal_that_dies_costs_no_training(tiny, nohup):
    tiny.write(**LONG)
    tiny.create(1)
    terminal, end = pty.openpty()

    def in_the_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    command = tiny.command("run", "1", "--study", str(tiny.file), "--workers", "1")
    streams = {"stdin": end, "stdout": end, "stderr": end}
    with subprocess.Popen(**command, **streams, preexec_fn=in_the_terminal) as process:
        os.close(end)
        shown = b""
        while not re.search(rb"[1-8]/10", shown):  # the live table's column of rungs, which may skip some
            shown += os.read(terminal, 65536)
        os.close(terminal)
        status = process.wait(timeout=180)
    (trial,) = tiny.trials()
    if nohup:
        assert (status, trial.state) == (0, TrialState.COMPLETE)
    else:
        assert (status, trial.user_attrs["ended"]) == (130, "interrupted")
        assert tiny.slots()["open"] == 1


def test_workers_do_not_outlive_their_supervisor(tiny, supervised):
    workers = children(supervised)
    assert len(workers) == 2
    supervised.kill()
    wait_until(lambda: tiny.slots()["open"] == 2)
    wait_until(lambda: not any(map(is_running, workers)))
    assert [trial.user_attrs["ended"] for trial in tiny.trials()] == ["interrupted"] * 2


def test_a_study_that_is_not_there_is_one_line(tiny):
    tiny.create(1)
    done = subprocess.run(**tiny.command("workers", "nosuch"), capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: study 'nosuch' is not in ")
    assert done.stderr.count("\n") == 1


def test_workers_that_make_their_study_name_one_that_there_is(tiny):
    done = subprocess.run(**tiny.command("workers", "nosuch", "--create"), capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("nor is nosuch a folder under studies/\n")
    done = subprocess.run(**tiny.command("workers", "nosuch", "--trials", "3"), capture_output=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: --trials: given '3', allowed: with --create")


@pytest.mark.slow
def test_workers_say_at_their_end_what_the_trials_have_come_to(finished):
    command = finished.command("workers", "tiny", "--workers", "1")
    command["env"] |= {"HPTUNE_LOG": "text"}
    done = subprocess.run(**command, capture_output=True)
    best = min((trial.value, trial.number) for trial in finished.trials())
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("study tiny: 0 trials to finish, 1 worker here (")
    assert last == f"study tiny: 3 complete; best val_loss {best[0]:.4f}, trial {best[1]}"
    assert done.returncode == 0
