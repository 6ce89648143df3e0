"""`service place` on a real Ray cluster: a worker, a node, the job and the head lost, and a node added."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.conftest import ROOT
from tests.integration.engine_runs import assert_exactly, disturbed_study, in_progress, went_on
from tests.integration.processes import PYTHON, descendants, wait_until, with_engines
from tests.integration.ray_cluster import RayCluster

pytestmark = [pytest.mark.cluster, with_engines]

TRIALS = 6


@pytest.fixture
def cluster():
    with tempfile.TemporaryDirectory(prefix="hptune-ray-") as folder:
        cluster = RayCluster(Path(folder))
        try:
            yield cluster
        finally:
            cluster.stop()


def variables(study):
    return {
        name: value
        for name, value in study.command()["env"].items()
        if name.startswith(("HPTUNE", "PYTHONPATH"))
    }


def interrupted(study):
    return [trial for trial in study.trials() if trial.user_attrs.get("ended") == "interrupted"]


@contextlib.contextmanager
def placed(cluster, study, places):
    """The command, on the cluster as it is; killed at the end, as its machine would be."""
    command = [PYTHON, "-m", "service", "place", "tiny", "--places", str(places), "--cpus", "1"]
    with (study.folder / "place.out").open("a+") as output:
        process = subprocess.Popen(
            [*command, "--address", f"127.0.0.1:{cluster.port}"],
            env={**cluster.environment, **variables(study)}, cwd=ROOT, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            yield process
        finally:
            for pid in (process.pid, *descendants(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def test_what_is_lost_is_done_elsewhere_and_exactly_the_trials_finish(cluster, tmp_path, postgresql):
    study = disturbed_study(tmp_path, postgresql.new_database(), trials=TRIALS)
    cluster.start_head()
    with placed(cluster, study, 3) as command:
        wait_until("a trial on the head", lambda: in_progress(study))
        cluster.add("second")
        wait_until("a trial on the node that was added", lambda: len(in_progress(study)) == 2)
        # the worker alone, whose end Ray takes for a success unless the task says otherwise
        [worker] = cluster.workers("second")
        os.kill(worker, signal.SIGKILL)
        wait_until("another worker there", lambda: cluster.workers("second") not in ([worker], []))
        cluster.kill("second")
        cluster.add("third")
        wait_until(
            "a trial on the third node", lambda: cluster.workers("third") and len(in_progress(study)) == 2
        )
        assert command.poll() is None
        cluster.stop()  # the head, too
    cluster.start_head()  # whoever goes on finds nothing of the first one
    job = ("job", "submit", "--address", f"http://127.0.0.1:{cluster.dashboard}", "--no-wait")
    env = {"env_vars": {**variables(study), "RAY_JOB_STOP_WAIT_TIME_S": "60"}}
    again = (
        "--runtime-env-json",
        json.dumps(env),
        "--",
        str(PYTHON),
        "-m",
        "service",
        "place",
        "tiny",
        "--places",
        "1",
    )
    submit = (*job, "--submission-id", "first", *again, "--cpus", "1")
    before = len(study.trials())
    assert not interrupted(study)
    done = cluster.ray(*submit)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until("a trial of the job", lambda: [t for t in in_progress(study) if t.number >= before])
    stopped = cluster.ray("job", "stop", "--address", job[3], "first")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    [handed_back] = wait_until("the hand-over", lambda: interrupted(study))
    assert handed_back.state == TrialState.FAIL
    said = cluster.ray("job", "logs", "--address", job[3], "first").stdout
    assert "stopped: the workers have handed their trials back" in said
    with placed(cluster, study, 1) as command:
        assert command.wait(timeout=600) == 0
    assert_exactly(study, TRIALS)
    assert went_on(study) >= 3


def test_a_client_without_the_clusters_token_is_refused(cluster, tmp_path, finished):
    cluster.start_head()
    other = tmp_path / "token"
    other.write_text("f" * 64)
    done = subprocess.run(
        [PYTHON, "-m", "service", "place", "tiny", "--places", "1", "--address", f"127.0.0.1:{cluster.port}"],
        env={**cluster.environment, **variables(finished), "RAY_AUTH_TOKEN_PATH": str(other)},
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    # above it stands what Ray itself says
    assert done.stderr.splitlines()[-1].startswith("error: --address")
