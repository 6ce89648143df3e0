"""A study's workers placed by Ray: `python -m service place`.

Ray finds the machines, starts a task in each place and again after a loss. Nothing of a study is in Ray: no actors, no
objects, no state. A cluster that is gone, or a head that died, costs the steps since the last saved state, and the same
command finishes the study on the next one.
"""

import contextlib
import json
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from fractions import Fraction
from types import ModuleType
from typing import Any

import tenacity
from rich.console import Console

from model.errors import UserError
from service.cluster import task
from service.machine import status
from service.settings import ROOT, Settings
from service.text import terminal

HANDED_ON = ("HPTUNE_", "AWS_", "PG", "HF_")
"""Beginnings of the variables that workers need from here. They go to the task itself: as Ray's `env_vars` they would
stand in its dashboard, and a key that the job was submitted with as well would be refused."""
ENDING_SECONDS = 60.0
"""For workers to save, and to hand their trials back."""

CONNECTIONS = 3
"""Tries to reach the cluster."""


class RayError(UserError):
    """The cluster cannot be used."""


def place(
    settings: Settings,
    study: str,
    *,
    places: int,
    gpus: Fraction,
    cpus: int,
    address: str | None,
    console: Console,
) -> int:
    """Run workers on a Ray cluster until the study's trials are used up, and show how it stands; the exit status.

    Args:
        settings: where things are, for every node.
        study: its name in the storage.
        places: workers at most; those that find no room wait for a node that has some.
        gpus: of each worker, 0 to 1; a part of one is shared, as HPTUNE_WORKERS_PER_GPU does it.
        cpus: of each worker, and its threads.
        address: of the cluster; RAY_ADDRESS, or the one on this machine, unless given.
        console: for the progress.

    Raises:
        UserError: the study or the cluster cannot be used.
    """
    take = status.take(settings, study)
    study = take().study.study_name
    ray = _connected(address)
    try:
        _refuse_one_machines_storage(settings, ray)
        if not _fits(ray, gpus, cpus):
            room = f"{cpus} CPUs" + (f" and {float(gpus):g} GPUs" if gpus else "")
            terminal.say(console, f"no node has {room} now; the places wait for one that has")
        tasks = _tasks(ray, study, places=places, gpus=gpus, cpus=cpus)
        stopping = threading.Event()
        with _signals(stopping):
            status.watch(take, console, ended=lambda: stopping.is_set() or _all_ended(ray, tasks))
        left = take().left if not stopping.is_set() else 0
        faults = _end(ray, tasks)
        for line in sorted(set(faults)):
            terminal.say(console, f"a place was given up: {line}")
        if stopping.is_set():
            console.print("stopped: the workers have handed their trials back; the same command goes on")
            return 130
        return 1 if left else 0
    finally:
        ray.shutdown()


def part_of_gpu(given: str) -> Fraction:
    """What a worker has of a GPU. Raises UserError: it is no part of one."""
    try:
        part = Fraction(given)
    except (ValueError, ZeroDivisionError):
        part = Fraction(-1)
    if part != 0 and not Fraction(1, 64) <= part <= 1:
        raise UserError(
            f"--gpus: given {given!r}, allowed: 0, 1, or a part as 0.25: a worker trains on one GPU"
        )
    return part


def _connected(address: str | None) -> ModuleType:
    # before the import, which reads it; a cluster of ours has a token, and one without does not ask for it
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError:
        raise RayError(
            "Ray is not installed; pip install 'ray[default]>=2.60,<3' into this environment"
        ) from None
    where = address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: not _is_refused(error)),
            stop=tenacity.stop_after_attempt(CONNECTIONS),
            reraise=True,
        ):
            with attempt:  # a busy head does not answer in the half a minute that Ray waits
                ray.init(address=where, log_to_driver=False, logging_level="ERROR", namespace="hptune")
    except Exception as error:  # of many kinds, by what the address and the token are
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if _is_refused(error):
            reason = "it has another token than this machine"
        raise RayError(
            f"--address {where}: no Ray cluster can be used: {reason}; docs/clusters.md has the commands that start "
            "one with its token"
        ) from None
    module: ModuleType = ray
    return module


def _is_refused(error: BaseException) -> bool:
    # Ray says so in the message of what it has caught, and waits as for a head that does not answer
    return "AuthenticationError" in f"{error} {error.__cause__}"


def _refuse_one_machines_storage(settings: Settings, ray: ModuleType) -> None:
    hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if settings.url.get_backend_name() == "sqlite" and hosts != {socket.gethostname()}:
        raise RayError(
            f"{settings.storage_shown}: SQLite serves one machine, and the cluster has {', '.join(sorted(hosts))}; "
            "HPTUNE_STORAGE_URL names a PostgreSQL for all of them"
        )


def _fits(ray: ModuleType, gpus: Fraction, cpus: int) -> bool:
    rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(room.get("CPU", 0) >= cpus and room.get("GPU", 0) >= gpus for room in rooms)


def _tasks(ray: ModuleType, study: str, *, places: int, gpus: Fraction, cpus: int) -> list[Any]:
    environment = handed_on(os.environ, sharing=int(1 / gpus) if gpus else 1, gpus=bool(gpus))
    # by value: the project need not be where Ray's own processes look for modules
    ray.cloudpickle.register_pickle_by_value(task)
    remote = ray.remote(task.work).options(
        num_cpus=cpus,
        num_gpus=float(gpus),
        max_retries=-1,
        retry_exceptions=[ChildProcessError],
        name=f"hptune {study}",
    )
    calls = []
    for _ in range(places):
        owner = f"ray:{uuid.uuid4().hex[:12]}"
        arguments = ["-m", "service", "work", study, "--json", "--threads", str(cpus)]
        calls.append(remote.remote([*arguments, "--owner", owner], environment, str(ROOT)))
    return calls


def handed_on(environment: Mapping[str, str], *, sharing: int, gpus: bool) -> dict[str, str]:
    """The variables that a worker gets from here, with its part of a GPU."""
    kept = {name: value for name, value in environment.items() if name.startswith(HANDED_ON)}
    device = {} if gpus or "HPTUNE_DEVICE" in kept else {"HPTUNE_DEVICE": "cpu"}
    return {**kept, **device, "HPTUNE_WORKERS_PER_GPU": str(sharing)}


def _all_ended(ray: ModuleType, tasks: list[Any]) -> bool:
    return not ray.wait(tasks, num_returns=len(tasks), timeout=0)[1]


@contextlib.contextmanager
def _signals(stopping: threading.Event) -> Iterator[None]:
    """`ray job stop` sends SIGTERM to this process alone, and the job's children nothing."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    former = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _end(ray: ModuleType, tasks: list[Any]) -> list[str]:
    """End what runs or waits; what only the user can mend, as the tasks say it."""
    _, unfinished = ray.wait(tasks, num_returns=len(tasks), timeout=0)
    for each in unfinished:
        ray.cancel(each, force=False)
    ray.wait(tasks, num_returns=len(tasks), timeout=ENDING_SECONDS)
    faults = []
    for each in tasks:
        with contextlib.suppress(Exception):  # cancelled
            said = ray.get(each, timeout=0)
            if said:
                faults.append(_readable(said))
    return faults


def _readable(line: str) -> str:
    """A line of a worker, which writes JSON."""
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        return str(event.get("event", line)) if isinstance(event, dict) else line
    return line.removeprefix("error: ")
