"""docker-compose.yml on a real engine: images, what a team starts, and what it may see.

The tests share one engine and one pair of cores: they run one after the other (`make integration`).
"""

import base64
import json
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.integration.conftest import (
    IMAGE,
    LEARNING_RATES,
    ROOT,
    SPACE,
    VERSION,
    losses_by_learning_rate,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_context_is_small(docker_client):
    dockerfile = "FROM scratch\nCOPY . /\n"
    command = ["docker", "build", "-q", "-f", "-", str(ROOT)]
    image = subprocess.run(
        command, input=dockerfile, capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        assert 0 < docker_client.images.get(image).attrs["Size"] < 5_000_000
    finally:
        docker_client.images.remove(image)


@pytest.mark.parametrize("target", ["worker", "dashboard"])
def test_image(target, docker_client, images):
    image = docker_client.images.get(f"{IMAGE}-{target}:{VERSION}")
    assert image.attrs["Config"]["User"] not in ("", "root", "0")
    assert image.attrs["Config"]["Labels"]["org.opencontainers.image.revision"] == "0123abc"
    script = """
        id -u
        for tool in gcc cc g++ make ld; do command -v $tool; done
        touch /app/x /opt/venv/x 2>/dev/null && echo writable
        python -c 'import importlib.util as i; print(bool(i.find_spec("torch")))'
    """
    printed = docker_client.containers.run(image, ["-c", script], entrypoint="sh", remove=True).decode()
    assert printed.split() == ["10001", str(target == "worker")]
    leftovers = [
        "/",
        "-xdev",
        "(",
        "-path",
        "*/.cache/pip",
        "-o",
        "-name",
        ".git",
        "-o",
        "-path",
        "/opt/venv/bin/pip*",
        ")",
    ]
    assert docker_client.containers.run(image, leftovers, entrypoint="find", user="0", remove=True) == b""


def test_up_workers_brings_up_what_it_needs_and_ends(undisturbed):
    assert undisturbed.up.returncode == 0, undisturbed.up.stdout
    assert "study tiny: reading the corpus (file)" in undisturbed.up.stdout
    assert sorted(undisturbed.losses) == list(LEARNING_RATES)
    undisturbed.project.assert_whole(undisturbed.losses)
    assert undisturbed.project.containers("dashboard") == []
    assert undisturbed.project.container("storage").attrs["NetworkSettings"]["Ports"] in (
        {},
        {"5432/tcp": None},
    )
    trial = undisturbed.project.trials()[0]
    assert trial.user_attrs["provenance"]["commit"] == "0123abc"


def test_logs_are_json_lines_with_study_trial_and_worker(undisturbed):
    lines = [json.loads(line) for line in undisturbed.project.logs("workers").splitlines()]
    assert "study tiny: reading the corpus (file)" in [line["event"] for line in lines]
    ended = [line for line in lines if line["event"] == "trial ended"]
    assert [(line["study"], line["trial"], line["worker"]) for line in ended] == [
        ("tiny", number, 0) for number in range(len(LEARNING_RATES))
    ]


def test_up_again_runs_nothing_more(undisturbed):
    before = undisturbed.project.trials()
    undisturbed.project.compose("up", "workers")
    assert undisturbed.project.trials() == before


def test_containers_are_locked_down(undisturbed):
    for service in ("storage", "workers"):
        container = undisturbed.project.container(service)
        host = container.attrs["HostConfig"]
        assert 0 < host["PidsLimit"] <= 16384
        assert "size=" in host["Tmpfs"]["/tmp"]
        assert container.attrs["Config"]["Healthcheck"]["Test"][0].startswith("CMD")
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    storage = undisturbed.project.container("storage")
    uids = {
        process[0]
        for process in storage.top(ps_args="-eo pid,uid,comm")["Processes"]
        if process[2] == "postgres"
    }
    assert uids
    assert "0" not in uids


def test_every_service_has_its_limits(undisturbed):
    project = undisturbed.project
    environment = {**project.environment, "HPTUNE_MEMORY": "3g"}  # the workers' is the user's to say
    command = ["docker", "compose", "--profile", "*", "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    services = json.loads(done.stdout)["services"]
    assert {"storage", "create", "workers", "dashboard", "evaluator", "status"} <= services.keys()
    for name, service in services.items():
        assert int(service["mem_limit"]) >= 2 * 2**30, name
        assert 0 < service["pids_limit"] <= 16384, name
        assert all("size=" in mounted for mounted in service["tmpfs"]), name
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name in ("storage", "workers", "dashboard"):
        # a crash of the engine stops what it finds running, after which `unless-stopped` stays away
        assert services[name]["restart"] in ("always", "on-failure"), name


def test_evaluator_scores_the_best(undisturbed):
    printed = undisturbed.project.compose("run", "--rm", "evaluator", "--study", "tiny", "--top", "1").stdout
    best = min(undisturbed.project.trials(), key=lambda trial: trial.value)
    assert f"titles drawn from trial {best.number}" in printed
    files = undisturbed.project.compose(
        "run", "--rm", "--entrypoint", "find", "evaluator", "runs/reports", "-name", "evaluation.md"
    ).stdout
    assert "runs/reports/tiny/evaluation.md" in files


def test_dashboard_answers_on_loopback_with_the_password(undisturbed):
    project = undisturbed.project
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project.environment["HPTUNE_DASHBOARD_PORT"] = str(port)
    project.compose("up", "--detach", "--no-deps", "--wait", "dashboard")
    published = project.container("dashboard").attrs["NetworkSettings"]["Ports"]["8080/tcp"]
    assert published == [{"HostIp": "127.0.0.1", "HostPort": str(port)}]
    url = f"http://127.0.0.1:{port}/api/studies"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=10)
    with refused.value:
        assert refused.value.code == 401
    secret = base64.b64encode(f"hptune:{project.environment['HPTUNE_DASHBOARD_PASSWORD']}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {secret}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert [study["study_name"] for study in json.load(answer)["study_summaries"]] == ["tiny"]


def test_passwords_show_nowhere(undisturbed, docker_client):
    """Images, logs, tables and process lists; the environment of a container is its owner's to see."""
    project = undisturbed.project
    project.compose("up", "--detach", "--no-deps", "--wait", "dashboard")
    containers = [
        container for name in ("storage", "workers", "dashboard") for container in project.containers(name)
    ]
    assert len(containers) == 3
    seen = [container.logs().decode() for container in containers]
    seen += [json.dumps(container.attrs["Args"]) for container in containers]
    seen += [json.dumps(c.top(ps_args="-eo pid,args")) for c in containers if c.status == "running"]
    for target in ("worker", "dashboard"):
        image = docker_client.images.get(f"{IMAGE}-{target}:{VERSION}")
        seen += [json.dumps(image.attrs), json.dumps(image.history())]
    dump = project.container("storage").exec_run(["pg_dump", "-U", "postgres", "hptune"])
    assert dump.exit_code == 0
    seen.append(dump.output.decode())
    assert "hptune_slots" in seen[-1]
    for secret in ("HPTUNE_STORAGE_PASSWORD", "HPTUNE_DASHBOARD_PASSWORD"):
        assert not [text for text in seen if project.environment[secret] in text]


def test_scaled_workers_share_the_trials(project):
    project.write_study(SPACE, **{"training.tokens": 30_000})
    project.environment["HPTUNE_TRIALS"] = "10"
    up = project.compose("up", "--scale", "workers=3", "workers", timeout=300)
    assert len(project.containers("workers")) == 3, up.stdout
    assert project.wait_for_workers() == [0, 0, 0]
    assert len(losses_by_learning_rate(project.trials())) == len(project.trials()) == 10
