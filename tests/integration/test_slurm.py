"""`cluster/slurm.sh` on a real Slurm with two nodes: preempted, out of time, and a node lost."""

import contextlib
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration import slurm
from tests.integration.engine_runs import assert_exactly, disturbed_study, in_progress, went_on
from tests.integration.processes import wait_until
from tests.integration.slurm import Cluster

pytestmark = pytest.mark.cluster

TRIALS = 6


@pytest.fixture(scope="module")
def cluster():
    if why := slurm.missing():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="hptune-slurm-") as folder:
        Path(folder).chmod(0o755)
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def submit(cluster, study, *options):
    variables = {name: value for name, value in study.command()["env"].items() if name.startswith("HPTUNE_")}
    said = cluster.run(
        *("sbatch", f"--chdir={ROOT}", f"--output={study.folder}/%A_%a.out", *options),
        *(str(ROOT / "cluster" / "slurm.sh"), "tiny"),
        **variables,
        HPTUNE_PYTHON=sys.executable,
    )
    return said.split()[-1]


def outputs(study):
    return "".join(file.read_text() for file in sorted(study.folder.glob("*.out")))


def test_jobs_that_lose_their_node_or_time_finish_exactly_the_trials(
    cluster, tmp_path, postgresql, monkeypatch
):
    study = disturbed_study(tmp_path, postgresql.new_database(), trials=TRIALS)
    monkeypatch.chdir(ROOT)  # from where the job is submitted
    submit(cluster, study, "--array=0-1")

    def jobs():
        return [job for job in cluster.jobs().values() if job["JobName"] == "hptune"]

    def name(job):
        return f"{job['ArrayJobId']}_{job['ArrayTaskId']}"

    def running():
        return {job["BatchHost"]: job for job in jobs() if job["JobState"] == "RUNNING"}

    def restarted(times):
        """Slurm lets two minutes go by before a job that was queued again may start; not here."""
        for job in jobs():
            if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime":
                with contextlib.suppress(AssertionError):  # it has just started
                    cluster.run("scontrol", "update", f"JobId={name(job)}", "StartTime=now")
        return sum(int(job["Restarts"]) for job in jobs()) >= times and len(running()) == 2

    wait_until("two trials", lambda: len(in_progress(study)) == 2)
    cluster.run(
        "sbatch", "--partition=high", "--output=/dev/null", "--wrap=true"
    )  # takes a node from one of them
    wait_until("a trial handed back", lambda: "stopped: every trial's state is saved" in outputs(study))
    wait_until("the preempted job", lambda: restarted(1))

    wait_until("two trials again", lambda: len(in_progress(study)) == 2)
    # what --signal=B:USR1@120 does 120 s before a --time limit
    cluster.run("scancel", "--batch", "--signal=USR1", name(running()["one"]))
    wait_until("the job out of time", lambda: restarted(2))

    wait_until("two trials once more", lambda: len(in_progress(study)) == 2)
    cluster.lose("two")
    wait_until("the lost node", lambda: any(state.startswith("down") for state in cluster.states()))
    wait_until("the job of the lost node", lambda: sum(int(job["Restarts"]) for job in jobs()) >= 3)
    # it starts again two minutes later; its trial does not wait for that
    wait_until("the last trial", lambda: study.slots()["closed"] == TRIALS, seconds=600)
    assert_exactly(study, TRIALS)
    assert went_on(study) >= 3


def test_a_job_submitted_from_elsewhere_says_so(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cluster.run("sbatch", f"--output={tmp_path}/out", str(ROOT / "cluster" / "slurm.sh"), "tiny")
    wait_until("its word", (tmp_path / "out").exists)
    wait_until("its word", (tmp_path / "out").read_text)
    assert "not the project's folder" in (tmp_path / "out").read_text()
