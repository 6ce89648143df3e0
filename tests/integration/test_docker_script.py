"""`./hptune.sh N --docker`, as from a shell."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from optuna.trial import TrialState

from tests.integration.conftest import BASE_IMAGES, LEARNING_RATES, ROOT, SPACE, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_script_finishes_exactly_as_many_more(project):
    project.write_study(SPACE, **{"training.tokens": 30_000})
    for more in (2, 1):
        script = project.start("./hptune.sh", str(more), "--study", "tiny", "--docker")
        printed, _ = script.communicate(timeout=180)
        assert script.returncode == 0, printed
    assert "3 of 3 trials finished" in printed
    assert "docker compose run --rm evaluator --study tiny" in printed
    assert [trial.state for trial in project.trials()] == [TrialState.COMPLETE] * 3


def test_script_interrupted_hands_back(project, undisturbed):
    script = project.start("./hptune.sh", str(len(LEARNING_RATES)), "--study", "tiny", "--docker")
    wait_for(lambda: project.containers("workers") and project.holder(), "a trial in its middle")
    os.killpg(script.pid, signal.SIGINT)  # as Ctrl-C does
    printed, _ = script.communicate(timeout=90)
    assert script.returncode == 130, printed
    assert "stopped: every trial's state is saved" in printed
    assert re.search(
        r"^(\d) trials are left; to finish them: \./hptune\.sh \1 --study tiny --docker( --workers 1)?$",
        printed,
        re.M,
    )
    assert not [trial for trial in project.trials() if trial.state == TrialState.RUNNING]
    project.compose("up", "--no-deps", "workers")
    project.assert_whole(undisturbed.losses)


def test_script_takes_a_corpus_of_the_host(project, tmp_path):
    project.write_study(SPACE, **{"training.tokens": 30_000, "data.path": None, "data.source": None})
    corpus = tmp_path / "data" / "corpus.txt"
    script = project.start(
        "./hptune.sh",
        "1",
        "--study=tiny",
        "--docker",
        "--set",
        "data.source=file",
        "--set",
        f"data.path={corpus}",
    )
    printed, _ = script.communicate(timeout=180)
    assert script.returncode == 0, printed
    assert re.search("1 of 1 trials finished", printed)


def test_script_refuses_what_another_clone_has_begun(project):
    other = project.client.containers.create(
        BASE_IMAGES[0],
        labels={
            "com.docker.compose.project": project.name,
            "com.docker.compose.project.working_dir": "/another/clone",
        },
    )
    try:
        script = project.start("./hptune.sh", "1", "--study", "tiny", "--docker")
        printed, _ = script.communicate(timeout=60)
    finally:
        other.remove()
    assert script.returncode == 2
    assert printed == (
        f"error: the containers of project {project.name} belong to /another/clone; give this clone a name of its own "
        f"in .env: COMPOSE_PROJECT_NAME={project.name}-2\n"
    )


def test_clones_in_two_folders_share_nothing(tmp_path, project):
    environment = {
        name: value
        for name, value in project.environment.items()
        if name not in ("COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "HPTUNE_IMAGE")
    }
    configs = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(ROOT / "docker-compose.yml", folder)
        command = ["docker", "compose", "--profile", "*", "config", "--format", "json"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
        config = json.loads(done.stdout)
        volumes = {volume["name"] for volume in config["volumes"].values()}
        networks = {network["name"] for network in config["networks"].values()}
        images = {service["image"] for service in config["services"].values() if "build" in service}
        configs.append({config["name"]} | volumes | networks | images)
    assert not configs[0] & configs[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--docker", "--scale"], "--scale: needs a value"),
        (["5", "--docker", "--study", "../x"], "a folder's name under studies/"),
        (["5", "--docker", "--fast"], "--fast: not known with --docker"),
        (["5", "--docker", "--set"], "--set: needs a value"),
    ],
)
def test_script_refuses_what_it_does_not_know(arguments, message):
    done = subprocess.run([ROOT / "hptune.sh", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
