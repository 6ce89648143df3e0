"""What is disturbed: a storage, three worker containers, and an artifact store that can be filled."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docker.models.containers import Container
from docker.models.networks import Network

from tests.benchmarks.chaos.engine import Engine
from tests.integration.conftest import Project, compose_project, wait_for

WORKERS = 3
LEASE_SECONDS = 10
STORE_MEGABYTES = 256
TRIAL = {"training.tokens": 60_000, "training.rungs": 8}

CLOCK = """
CREATE TABLE public.chaos_clock (step interval NOT NULL);
INSERT INTO public.chaos_clock VALUES ('0');
GRANT SELECT ON public.chaos_clock TO public;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
  AS 'SELECT pg_catalog.clock_timestamp() + step FROM public.chaos_clock';
ALTER DATABASE hptune SET search_path = public, pg_catalog;
"""
"""Puts the clock that leases are measured by, the storage's, in front of PostgreSQL's own, with a step."""


class NotNowError(Exception):
    """What shall be disturbed is not there at the moment."""


@dataclass(frozen=True)
class Stack:
    """A compose project on an engine of its own, with its artifact store in a folder of its own."""

    engine: Engine
    project: Project
    store: Path

    def workers(self) -> list[Container]:
        """The worker containers, by number."""
        return sorted(self.project.containers("workers"), key=number)

    def storage(self) -> Container:
        return self.project.container("storage")

    def network(self) -> Network:
        return self.engine.client.networks.get(f"{self.project.name}_default")

    def process(self, container: Container) -> int:
        """The process id of the container's worker. Raises NotNowError."""
        top = container.top()
        column = top["Titles"].index("PID")
        for row in top["Processes"]:
            if " service work " in row[-1]:
                return int(row[column])
        raise NotNowError("the container has no worker process")

    def sql(self, text: str) -> None:
        """Run by the superuser, inside the storage's container."""
        psql = (
            'psql -q -v ON_ERROR_STOP=1 -h /var/run/postgresql -U "${POSTGRES_USER:-postgres}" -c "$0" hptune'
        )
        status, output = self.storage().exec_run(["sh", "-c", psql, text])
        if status:
            raise NotNowError(output.decode())

    def create(self, learning_rates: list[float]) -> None:
        """Storage and study, of a trial for each learning rate."""
        lines = "".join(f"    - {{optimizer.lr: {lr}}}\n" for lr in learning_rates)
        self.project.write_study(f"design:\n  list:\n{lines}", **TRIAL)
        self.project.environment["HPTUNE_TRIALS"] = str(len(learning_rates))
        self.project.compose("up", "--detach", "storage")
        self.wait_for_storage()
        self.sql(CLOCK)
        self.project.compose("run", "--rm", "create")

    def wait_for_storage(self) -> None:
        wait_for(lambda: self.storage().attrs["State"]["Health"]["Status"] == "healthy", "the storage")

    def start_workers(self) -> None:
        """One thread each, on cores in turn."""
        up = ["up", "--no-deps", "--scale", f"workers={WORKERS}"]
        self.project.compose(*up, "--no-start", "workers")
        cores = sorted(os.sched_getaffinity(0))
        for index, container in enumerate(self.workers()):
            container.update(cpuset_cpus=str(cores[index % len(cores)]))
        self.project.compose(*up, "--detach", "workers")


def number(container: Container) -> int:
    return int(container.labels["com.docker.compose.container-number"])


@contextlib.contextmanager
def new_stack(engine: Engine, folder: Path, *, version: str) -> Iterator[Stack]:
    store = folder / "artifacts"
    store.mkdir(parents=True)
    # not a volume of the engine's: a tmpfs of that kind is emptied when no container uses it
    size = f"size={STORE_MEGABYTES}m,mode=0777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "hptune", store], check=True)
    with compose_project(folder, engine.client) as project:
        project.environment.update(
            HPTUNE_IMAGE="hptune",
            HPTUNE_VERSION=version,
            HPTUNE_ARTIFACTS_FOLDER=str(store),
            HPTUNE_LEASE_SECONDS=str(LEASE_SECONDS),
        )
        yield Stack(engine, project, store)
