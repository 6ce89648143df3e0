"""`cluster/slurm.sh` on a real Slurm with three nodes: preempted, out of time, a worker and a node lost."""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration import slurm
from tests.integration.engine_runs import RUNGS, HeldStudy
from tests.integration.processes import kill, variable, wait_until
from tests.integration.slurm import Cluster

pytestmark = pytest.mark.cluster

TRIALS = 4


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


@pytest.fixture
def no_job_left(cluster):
    """Of a test that has failed, too: the next one needs the nodes."""
    yield
    cluster.run("scancel", "--partition=low")


def submit(cluster, held, *options, **variables):
    """The id of a job that works on the study, submitted from the project's folder."""
    said = cluster.run(
        *("sbatch", f"--output={held.folder}/%x_%a.out", "--parsable", *options),
        *(str(ROOT / "cluster" / "slurm.sh"), "tiny"),
        cwd=ROOT,
        **{**held.variables(), "HPTUNE_PYTHON": sys.executable, **variables},
    )
    return said.partition(";")[0]


@pytest.fixture(scope="module")
def short_of_time(cluster, tmp_path_factory, postgresql):
    """A study, and what comes of the job that works on it with a GPU.

    Slurm takes half a minute to say that a job's time is up; other tests run in the meantime.
    """
    held = HeldStudy(tmp_path_factory.mktemp("short"), postgresql.new_database(), trials=2)
    job = submit(cluster, held, "--partition=short", "--time=10", "--signal=B:USR1@60", "--gpus-per-task=1")

    def told():
        return cluster.jobs()[job]

    def run_out_of_time_twice():
        [worker] = wait_until("the worker", lambda: cluster.workers("three"))
        gpu = variable(worker, "CUDA_VISIBLE_DEVICES")
        for rung in (1, 2):
            wait_until("a trial", lambda rung=rung: held.at(rung))
            restarts, (hours, minutes, _) = told()["Restarts"], map(int, told()["RunTime"].split(":"))
            # an end that is one to two minutes away; whatever the load, the trial is there
            cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + 2}")
            wait_until("the job out of time", lambda restarts=restarts: told()["Restarts"] != restarts)
            cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=10")
            held.allow(rung + 1)
        held.allow(RUNGS)
        wait_until("the job's end", lambda: told()["JobState"] == "COMPLETED")
        return gpu, int(told()["Restarts"])

    with ThreadPoolExecutor(1) as pool:
        yield held, pool.submit(run_out_of_time_twice)


@pytest.mark.usefixtures("short_of_time", "no_job_left")
def test_jobs_that_lose_their_worker_or_node_finish_exactly_the_trials(cluster, tmp_path, postgresql):
    held = HeldStudy(tmp_path, postgresql.new_database(), trials=TRIALS)
    array = submit(cluster, held, "--array=0-1")

    def jobs():
        return [job for job in cluster.jobs().values() if job.get("ArrayJobId") == array]

    def restarts():
        return sum(int(job["Restarts"]) for job in jobs())

    wait_until("two trials", lambda: len(held.at(1)) == 2)
    # takes the node from its job; where it might have either, Slurm has been seen to end both
    high = ("--partition=high", "--nodelist=one", "--output=/dev/null", "--wrap=true")
    cluster.run("sbatch", *high, cwd=tmp_path)
    wait_until("a trial handed back", lambda: len(held.interrupted()) == 1)
    wait_until("the preempted job", lambda: restarts() == 1)
    held.allow(2)
    wait_until("two trials again", lambda: len(held.at(2)) == 2)

    kill(cluster.workers("one"))
    held.allow(3)
    wait_until("another worker's trial", lambda: len(held.at(3)) == 2)
    assert restarts() == 1, "the worker is replaced within its job"

    cluster.lose("two")
    wait_until("the lost node", lambda: any(state.startswith("down") for state in cluster.states()))
    wait_until("the job of the lost node", lambda: restarts() == 2)
    cluster.add("two")
    held.allow(4)
    wait_until("two trials once more", lambda: len(held.at(4)) == 2)

    held.allow(RUNGS)
    wait_until("the last trial", lambda: held.study.slots()["closed"] == TRIALS)
    held.assert_exact()
    assert len(held.resumed()) == 3
    wait_until("the jobs' end", lambda: all(job["JobState"] == "COMPLETED" for job in jobs()))


def test_a_job_short_of_time_hands_back_and_goes_on_until_the_trials_are_used_up(short_of_time):
    held, job = short_of_time
    gpu, restarts = job.result(timeout=1200)
    assert gpu == "0"
    assert restarts >= 2
    held.assert_exact()
    assert len(held.interrupted()) >= 2


def test_a_job_submitted_from_elsewhere_says_so(cluster, tmp_path):
    script = str(ROOT / "cluster" / "slurm.sh")
    cluster.run("sbatch", f"--output={tmp_path}/out", script, "tiny", cwd=tmp_path)
    wait_until("its word", lambda: os.path.exists(tmp_path / "out") and (tmp_path / "out").read_text())
    assert "not the project's folder" in (tmp_path / "out").read_text()
