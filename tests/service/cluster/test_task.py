import os
import signal
import threading
import time

import pytest

from service.cluster import task
from tests.conftest import ROOT


def run(code, **environment):
    return task.work(["-c", f"import os, sys, signal, time; {code}"], environment, str(ROOT))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(task, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(task, "CRASHES", 2)
    monkeypatch.setattr(task.time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.02)))


def test_a_worker_that_ends_well_has_nothing_to_say():
    assert run("pass") is None


def test_what_only_the_user_can_mend_is_told():
    assert run("print('error: no study', file=sys.stderr); sys.exit(2)") == "error: no study"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", f"sys.exit({os.EX_TEMPFAIL})"])
def test_a_killed_worker_and_a_storage_that_stays_away_are_for_another_try(end):
    with pytest.raises(ChildProcessError, match="the worker ended with status"):
        run(end)


def test_a_place_whose_worker_crashes_again_and_again_is_given_up(tmp_path):
    said = run(f"open('{tmp_path}/starts', 'a').write('x'); sys.exit('no memory')")
    assert said == "worker crashed 2 times one after the other, with status 1; no memory"
    assert (tmp_path / "starts").read_text() == "xx"


def test_the_worker_gets_its_environment_and_the_project():
    assert run("import service, model; sys.exit(os.environ['A'] != 'b')", A="b") is None


def test_what_the_node_has_on_its_path_stays_there(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/node/packages")
    assert run(f"sys.exit(os.environ['PYTHONPATH'] != {f'{ROOT}:/node/packages'!r})") is None


def test_a_cancelled_task_lets_its_worker_save(tmp_path):
    """What `ray.cancel` does: KeyboardInterrupt, and nothing that would wake a waiting thread."""
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    code = f"signal.signal(15, lambda *_: (open('{saved}', 'w'), sys.exit(130))); open('{ready}', 'w'); time.sleep(60)"

    def cancel():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=cancel).start()
    with pytest.raises(KeyboardInterrupt):
        run(code)
    assert saved.exists()


def test_where_the_project_is_not_the_node_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = task.work([], {}, str(tmp_path / "nowhere"))
    assert (
        said
        == f"{tmp_path}/nowhere is not on node {os.uname().nodename}; share the folder, or: ray job submit "
        "--working-dir ."
    )
