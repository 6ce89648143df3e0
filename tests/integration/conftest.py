"""Compose projects of their own, on a real engine, with a study of a few seconds a trial."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import sqlalchemy as sa
from docker.models.containers import Container
from optuna.trial import FrozenTrial, TrialState

from model.errors import UserError
from service.settings import Settings
from service.storage.database import open_storage
from service.storage.studies import load_study
from tests.conftest import TINY, sentences

ROOT = Path(__file__).resolve().parents[2]
BASE_IMAGES = ("python:3.11-slim-bookworm", "postgres:15-bookworm")
VERSION = os.environ.get("HPTUNE_VERSION", "test")
IMAGE = "hptune"
"""Of all projects, which otherwise have images of their own."""
LEARNING_RATES = (1e-3, 3e-3)
DESIGN = "design:\n  list:\n" + "".join(f"    - {{optimizer.lr: {lr}}}\n" for lr in LEARNING_RATES)
SPACE = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
sampler: {name: random}
"""
FIXED = {
    "data.source": "file",
    "data.path": "/data/corpus.txt",
    **TINY,
    "training.tokens": 120_000,
    "training.rungs": 6,
}
PIPED = {"text": True, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}


@dataclass(frozen=True)
class Project:
    """A compose project with its own name, volumes, study `tiny` and environment."""

    folder: Path
    client: docker.DockerClient
    environment: dict[str, str]

    @property
    def name(self) -> str:
        return self.environment["COMPOSE_PROJECT_NAME"]

    def write_study(self, body: str = DESIGN, **fixed: Any) -> None:
        lines = "".join(f"  {key}: {value}\n" for key, value in (FIXED | fixed).items() if value is not None)
        file = self.folder / "studies" / "tiny" / "study.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"question: Does it work?\nbaseline: false\nfixed:\n{lines}{body}")

    def override(self, text: str) -> None:
        """Add a compose file of the test's own."""
        file = self.folder / f"{uuid.uuid4().hex[:8]}.yml"
        file.write_text(text)
        self.environment["COMPOSE_FILE"] += f":{file}"

    def start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            **PIPED,
            start_new_session=True,
            # a shell cannot trap what it was started to ignore, as everything in the background of a script is
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def compose(
        self, *arguments: str, check: bool = True, timeout: float = 180
    ) -> subprocess.CompletedProcess:
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env=self.environment,
            **PIPED,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{arguments}: status {done.returncode}\n{done.stdout}"
        return done

    def containers(self, service: str) -> list[Container]:
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        return self.client.containers.list(all=True, filters={"label": labels})

    def container(self, service: str) -> Container:
        (container,) = self.containers(service)
        return container

    def logs(self, service: str) -> str:
        return "".join(container.logs().decode() for container in self.containers(service))

    @contextlib.contextmanager
    def engine(self) -> Iterator[sa.Engine]:
        """The storage's database, through the address that its container has now."""
        network = self.container("storage").attrs["NetworkSettings"]["Networks"][f"{self.name}_default"]
        password = self.environment["HPTUNE_STORAGE_PASSWORD"]
        url = sa.URL.create(
            "postgresql+psycopg", "hptune", password, host=network["IPAddress"], database="hptune"
        )
        engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": 5})
        try:
            yield engine
        finally:
            engine.dispose()

    def trials(self) -> list[FrozenTrial]:
        with self.engine() as engine:
            settings = Settings(
                engine.url.render_as_string(hide_password=False),
                artifacts="",
                cache=self.folder,
                device="cpu",
            )
        storage = open_storage(settings)
        try:
            return load_study(storage, "tiny", settings)[0].get_trials()
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def slots(self) -> list[sa.Row]:
        with self.engine() as engine, engine.connect() as connection:
            return list(connection.execute(sa.text("SELECT * FROM hptune_slots ORDER BY slot")))

    def holder(self) -> tuple[Container, FrozenTrial]:
        """A worker container in the middle of a trial, and its trial."""

        def find() -> tuple[Container, FrozenTrial] | None:
            try:
                slots = self.slots()
                trials = self.trials()  # after the slots, so that every slot's trial is among them
            except (UserError, sa.exc.OperationalError, sa.exc.ProgrammingError):  # not there yet
                return None
            for slot in slots:
                if slot.state == "leased" and slot.trial_number is not None:
                    trial = trials[slot.trial_number]
                    if trial.state == TrialState.RUNNING and len(trial.intermediate_values) >= 2:
                        for container in self.containers("workers"):
                            if slot.owner.startswith(f"{container.id[:12]}:"):
                                return container, trial
            return None

        return wait_for(find, "a trial in its middle")

    def assert_whole(self, losses: dict[float, float]) -> None:
        """Exactly the asked trials have finished, once each, with the losses of an undisturbed run."""
        trials = self.trials()
        assert losses_by_learning_rate(trials) == losses
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
        assert [slot.state for slot in self.slots()] == ["closed"] * len(LEARNING_RATES)

    def wait_for_workers(self, *, seconds: float = 180) -> list[int]:
        """The exit codes of the worker containers, once all of them have ended."""

        def ended() -> list[int] | None:
            states = [container.attrs["State"] for container in self.containers("workers")]
            over = all(state["Status"] == "exited" for state in states)
            return [state["ExitCode"] for state in states] if over else None

        return wait_for(ended, "the workers' end", seconds=seconds)


def wait_for(condition: Callable[[], Any], what: str, *, seconds: float = 120) -> Any:
    """What `condition` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    if shutil.which("docker") is None:
        pytest.skip("no Docker on this machine")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("Docker has no Compose v2 here")
    # not asked by the library, which leaves its socket open where nothing answers
    answer = subprocess.run(["docker", "version"], capture_output=True, text=True)
    if answer.returncode:
        pytest.skip(f"no Docker engine answers: {answer.stderr.strip()}")
    client = docker.from_env()
    for image in BASE_IMAGES:
        try:
            client.images.get(image)
        except docker.errors.ImageNotFound:
            if subprocess.run(["docker", "pull", "-q", image], capture_output=True, timeout=600).returncode:
                client.close()
                pytest.skip(f"the base image {image} is not here and cannot be pulled")
    yield client
    client.close()


@pytest.fixture(scope="session")
def images(docker_client: docker.DockerClient) -> Iterator[None]:
    """Both images, built from the working tree under a tag of the tests' own."""
    environment = {
        **os.environ,
        "HPTUNE_VERSION": VERSION,
        "HPTUNE_IMAGE": IMAGE,
        "HPTUNE_COMMIT": "0123abc",
        "COMPOSE_ENV_FILES": "/dev/null",
    }
    command = ["docker", "compose", "--progress", "plain", "build", "workers", "dashboard"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"the images cannot be built:\n{done.stdout}{done.stderr}"
    yield
    # those of an earlier tree, which have lost their tag; their layers stay in the build cache
    title = "org.opencontainers.image.title=hptune"
    docker_client.images.prune(filters={"dangling": True, "label": title})


@contextlib.contextmanager
def compose_project(folder: Path, client: docker.DockerClient) -> Iterator[Project]:
    """A project that leaves nothing behind."""
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("HPTUNE_", "COMPOSE_"))
    }
    project = Project(
        folder,
        client,
        {
            **inherited,
            "COMPOSE_PROJECT_NAME": f"hptune-test-{uuid.uuid4().hex[:8]}",
            "COMPOSE_FILE": "docker-compose.yml",
            "COMPOSE_ENV_FILES": "/dev/null",  # not the user's own .env
            "HPTUNE_VERSION": VERSION,
            "HPTUNE_IMAGE": IMAGE,
            "HPTUNE_LOG": "json",
            "HPTUNE_STUDY": "tiny",
            "HPTUNE_TRIALS": str(len(LEARNING_RATES)),
            "HPTUNE_STUDIES": str(folder / "studies"),
            "HPTUNE_DATA": str(folder / "data"),
            "HPTUNE_DEVICE": "cpu",
            "HPTUNE_WORKERS": "1",
            "HPTUNE_LEASE_SECONDS": "5",
            "HPTUNE_STORAGE_PASSWORD": "storage-secret-7391",
            "HPTUNE_DASHBOARD_PASSWORD": "dashboard-secret-2846",
        },
    )
    data = folder / "data"
    data.mkdir()
    (data / "corpus.txt").write_text("".join(f"{title}\n" for title in sentences(0)))
    project.write_study()
    # one thread each: two would wait for one another where other containers use the cores as well
    project.override('services: {workers: {cpuset: "0"}}\n')
    try:
        yield project
    finally:
        project.compose(
            "--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "1", check=False
        )


@pytest.fixture
def project(tmp_path, docker_client, images) -> Iterator[Project]:
    with compose_project(tmp_path, docker_client) as made:
        yield made


@dataclass(frozen=True)
class Undisturbed:
    """A study that ran from nothing to its end by `docker compose up workers`."""

    project: Project
    up: subprocess.CompletedProcess
    losses: dict[float, float]
    """By learning rate."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, docker_client, images) -> Iterator[Undisturbed]:
    with compose_project(tmp_path_factory.mktemp("undisturbed"), docker_client) as project:
        up = project.compose("up", "workers", check=False, timeout=300)
        yield Undisturbed(project, up, losses_by_learning_rate(project.trials()))


def losses_by_learning_rate(trials: list[FrozenTrial]) -> dict[float, float]:
    """Of the complete trials. A learning rate that ran to its end twice is an error."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    losses = {trial.params["optimizer.lr"]: trial.value for trial in complete}
    assert len(losses) == len(complete)
    return losses
