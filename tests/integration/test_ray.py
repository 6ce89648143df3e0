"""`service place` on a real Ray cluster: a worker, a node, the job and the head lost, a node added, a GPU shared."""

import contextlib
import json
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.engine_runs import RUNGS, HeldStudy
from tests.integration.processes import PYTHON, descendants, kill, variable, wait_until, with_engines
from tests.integration.ray_cluster import RayCluster

pytestmark = [pytest.mark.cluster, with_engines]

TRIALS = 4


@contextlib.contextmanager
def a_cluster():
    with tempfile.TemporaryDirectory(prefix="hptune-ray-") as folder:
        cluster = RayCluster(Path(folder))
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def lasting():
    """One node that takes jobs, with the CPUs for five workers and a GPU of which Ray knows no more than its number."""
    with a_cluster() as cluster:
        cluster.start_head("--num-cpus=5", "--num-gpus=1", jobs=True)
        yield cluster


@contextlib.contextmanager
def placed(cluster, held, places):
    """The command, on the cluster as it is; killed at the end, as its machine would be."""
    command = [PYTHON, "-m", "service", "place", "tiny", "--places", str(places), "--cpus", "1"]
    with (held.folder / "place.out").open("a+") as output:
        process = subprocess.Popen(
            [*command, "--address", f"127.0.0.1:{cluster.port}"],
            env={**cluster.environment, **held.variables()}, cwd=ROOT, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            yield process
        finally:
            kill((process.pid, *descendants(process.pid)))
            process.wait()


def test_what_is_lost_is_done_elsewhere_and_exactly_the_trials_finish(tmp_path, postgresql, request):
    held = HeldStudy(tmp_path, postgresql.new_database(), trials=TRIALS)
    with a_cluster() as cluster:
        cluster.start_head("--num-cpus=1")
        with placed(cluster, held, 2) as command:
            wait_until("a trial on the head", lambda: held.at(1))
            cluster.add("second")
            wait_until("a trial on the node that was added", lambda: len(held.at(1)) == 2)

            # the worker alone, whose end Ray takes for a success unless the task says otherwise
            kill(cluster.workers("second"))
            held.allow(2)
            wait_until("another worker's trial", lambda: len(held.at(2)) == 2)

            cluster.kill("second")
            cluster.add("third")
            held.allow(3)
            wait_until("a trial on the third node", lambda: len(held.at(3)) == 2)
            assert cluster.workers("third")
            assert command.poll() is None
            cluster.stop()  # the head, too
    held.allow(RUNGS)
    # whoever goes on finds nothing of the first one
    with placed(request.getfixturevalue("lasting"), held, 2) as command:
        wait_until("the command's end", lambda: command.poll() is not None)
    assert command.returncode == 0, (tmp_path / "place.out").read_text()
    held.assert_exact()
    assert len(held.resumed()) == 4  # the worker's, the node's, and two at the end of the head


def test_workers_share_a_gpu_and_a_job_that_is_stopped_hands_back(lasting, tmp_path, postgresql):
    held = HeldStudy(tmp_path, postgresql.new_database(), trials=TRIALS + 1)
    address = ("--address", f"http://127.0.0.1:{lasting.dashboard}")
    variables = {**held.variables(), "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    command = ["-m", "service", "place", "tiny", "--places", "5", "--gpus", "0.25", "--cpus", "1"]
    done = lasting.ray(
        *("job", "submit", *address, "--no-wait", "--submission-id", "first"),
        *("--runtime-env-json", json.dumps({"env_vars": variables}), "--", str(PYTHON), *command),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until("four trials", lambda: len(held.at(1)) == 4)
    workers = lasting.workers("head")
    assert [variable(worker, "CUDA_VISIBLE_DEVICES") for worker in workers] == ["0"] * 4
    assert [variable(worker, "HPTUNE_WORKERS_PER_GPU") for worker in workers] == ["4"] * 4
    # there are CPUs for it
    waiting = re.compile(r"'GPU': 0\.25.*: 1\+ pending")
    wait_until("the fifth place, which waits", lambda: waiting.search(lasting.ray("status").stdout))

    stopped = lasting.ray("job", "stop", *address, "first")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    wait_until("the hand-over", lambda: len(held.interrupted()) == 4)
    said = lasting.ray("job", "logs", *address, "first").stdout
    assert "stopped: the workers have handed their trials back" in said
    held.allow(RUNGS)
    with placed(lasting, held, 2) as again:
        wait_until("the command's end", lambda: again.poll() is not None)
    assert again.returncode == 0, (tmp_path / "place.out").read_text()
    held.assert_exact()
    assert len(held.resumed()) == 4


def test_a_client_without_the_clusters_token_is_refused(lasting, tmp_path, postgresql):
    held = HeldStudy(tmp_path, postgresql.new_database(), trials=1)
    other = tmp_path / "token"
    other.write_text("f" * 64)
    done = subprocess.run(
        [PYTHON, "-m", "service", "place", "tiny", "--places", "1", "--address", f"127.0.0.1:{lasting.port}"],
        env={
            **lasting.environment,
            **held.variables(),
            "RAY_AUTH_TOKEN_PATH": str(other),
            "RAY_NUM_REDIS_GET_RETRIES": "2",  # 20 unless told, a second and a half each
        },
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    # above it stands what Ray itself says
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: --address")
    assert "it has another token than this machine" in said
