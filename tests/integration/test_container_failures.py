"""What is left of a study when its containers, its database, its network, its disk or its memory fail."""

import os
import signal
import time

import pytest
from optuna.trial import TrialState

from tests.integration.conftest import LEARNING_RATES, losses_by_learning_rate, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_killed_container_is_taken_over(project, undisturbed):
    project.compose("up", "--detach", "--scale", "workers=2", "workers")
    container, trial = project.holder()
    container.kill()
    assert sorted(project.wait_for_workers()) == [0, 137]
    project.assert_whole(undisturbed.losses)
    assert any(other.user_attrs.get("goes_on_with") == trial.number for other in project.trials())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can kill a container's process from outside")
def test_container_that_dies_of_itself_comes_back(project, undisturbed):
    project.compose("up", "--detach", "workers")
    container, trial = project.holder()
    # as a crash of the supervisor: `docker kill` would tell the engine that it is meant
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)
    assert project.wait_for_workers() == [0]
    assert project.container("workers").attrs["RestartCount"] == 1
    project.assert_whole(undisturbed.losses)
    assert any(other.user_attrs.get("goes_on_with") == trial.number for other in project.trials())


def test_a_users_mistake_is_said_and_tried_ever_more_slowly(project):
    project.environment["HPTUNE_TRIALS"] = "many"
    project.compose("up", "--detach", "workers")
    wait_for(lambda: "error: --trials: given 'many'" in project.logs("workers"), "the mistake")
    project.compose("stop", "workers")
    project.environment["HPTUNE_TRIALS"] = "1"
    project.compose("run", "--rm", "create")
    project.environment["HPTUNE_STUDY"] = "other"
    project.compose("up", "--detach", "--no-deps", "workers")
    wait_for(lambda: project.container("workers").attrs["RestartCount"] == 3, "another start")
    assert "error: study 'other' is not in" in project.logs("workers")
    assert project.container("workers").attrs["State"]["ExitCode"] in (
        0,
        2,
    )  # 0 while it is started once more


def test_stop_hands_the_trial_back(project, undisturbed):
    project.compose("up", "--detach", "workers")
    _, trial = project.holder()
    begun = time.monotonic()
    project.compose("stop", "workers")
    assert time.monotonic() - begun < 30
    assert {slot.state for slot in project.slots()} <= {"open", "closed"}
    assert project.trials()[trial.number].state == TrialState.FAIL
    assert project.trials()[trial.number].user_attrs["ended"] == "interrupted"
    project.compose("up", "workers")
    project.assert_whole(undisturbed.losses)
    assert len(project.trials()) == len(LEARNING_RATES) + 1


def test_storage_restarted_and_paused(project, undisturbed):
    project.environment["HPTUNE_LEASE_SECONDS"] = "60"
    project.compose("up", "--detach", "workers")
    project.holder()
    project.compose("restart", "storage")
    project.holder()
    storage = project.container("storage")
    storage.pause()
    time.sleep(30)  # the outage itself
    storage.unpause()
    assert project.wait_for_workers() == [0]
    project.assert_whole(undisturbed.losses)
    assert len(project.trials()) == len(LEARNING_RATES)  # none was lost and run again


def test_worker_cut_off_and_coming_back_is_refused(project, undisturbed):
    project.compose("up", "--detach", "--scale", "workers=2", "workers")
    container, trial = project.holder()
    network = project.client.networks.get(f"{project.name}_default")
    network.disconnect(container)

    def successor():
        return [other for other in project.trials() if other.user_attrs.get("goes_on_with") == trial.number]

    wait_for(successor, "another worker to take the trial over")
    taken_over = project.trials()[trial.number]
    network.connect(container)
    wait_for(lambda: "taken over by another worker" in container.logs().decode(), "the refusal")
    assert project.wait_for_workers() == [0, 0]
    project.assert_whole(undisturbed.losses)
    assert project.trials()[trial.number] == taken_over


ARTIFACTS_OF_20_MB = """
volumes:
  artifacts:
    driver_opts: {type: tmpfs, device: tmpfs, o: "size=20m,mode=0777"}
"""


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["dd", "if=/dev/zero", "of=/artifacts/filler", "bs=64k"], "No space left on device"),
        (["mount", "-o", "remount,ro", "/artifacts"], "Read-only file system"),
    ],
    ids=["full", "read-only"],
)
def test_artifact_volume_fails(command, reason, project, undisturbed):
    project.override(ARTIFACTS_OF_20_MB)
    project.compose("run", "--rm", "create")
    holder = project.client.containers.run(
        "python:3.11-slim-bookworm",
        ["sleep", "300"],
        volumes={f"{project.name}_artifacts": {"bind": "/artifacts"}},
        cap_add=["SYS_ADMIN"],
        security_opt=["apparmor=unconfined"],
        detach=True,
        init=True,
    )
    try:
        # what create stored went with the volume's last user
        project.compose("run", "--rm", "--no-deps", "create")
        project.compose("up", "--detach", "--no-deps", "workers")
        project.holder()
        holder.exec_run(command)
        assert project.wait_for_workers() == [0]
    finally:
        holder.remove(force=True)
    assert losses_by_learning_rate(project.trials()) == undisturbed.losses
    lacking = [reason in trial.user_attrs.get("artifacts", "") for trial in project.trials()]
    assert lacking.count(True) >= 1


def test_configuration_that_exhausts_memory_is_given_up(project):
    project.write_study(
        "design:\n  list:\n    - {model.d_model: 1536}\n    - {model.d_model: 16}\n    - {model.d_model: 32}\n",
        **{"training.tokens": 30_000, "model.n_layer": 8, "model.d_model": None},
    )
    project.environment["HPTUNE_TRIALS"] = "3"
    project.override("services: {workers: {mem_limit: 1000m, memswap_limit: 1000m}}\n")
    project.compose("up", "workers", timeout=300)
    assert project.wait_for_workers() == [0]
    trials = project.trials()
    poisoned = [trial for trial in trials if trial.params["model.d_model"] == 1536]
    assert [trial.state for trial in poisoned] == [TrialState.FAIL] * 3
    assert "out of memory" in poisoned[-1].user_attrs["ended"]
    assert "having got no further in 3 failures" in poisoned[-1].user_attrs["ended"]
    others = [trial for trial in trials if trial not in poisoned]
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 2
    assert [slot.state for slot in project.slots()] == ["closed"] * 3
