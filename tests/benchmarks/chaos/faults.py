"""The faults: what is done, for how long, and how it is undone."""

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from docker.models.containers import Container

from tests.benchmarks.chaos.stack import LEASE_SECONDS, Stack

WORKER, STORAGE, STORE, ENGINE = "worker", "storage", "store", "engine"
LONGER_THAN_LEASE = (1.3 * LEASE_SECONDS, 2 * LEASE_SECONDS)
SHORTER_THAN_LEASE = (0.2 * LEASE_SECONDS, 0.8 * LEASE_SECONDS)
AT_ONCE = (0.0, 0.0)


@dataclass(frozen=True)
class Kind:
    """A fault is a generator: what comes before its yield does it, what comes after undoes it."""

    name: str
    takes: tuple[str, ...]
    """What it disturbs, and nothing else may disturb until it is undone; the engine is everything."""
    seconds: tuple[float, float]
    """How long it lasts: at least, at most."""
    run: Callable[[Stack, Container | None, random.Random], Iterator[None]]
    """Given a running worker container where it takes one."""


def kill_process(stack, worker, _generator):
    os.kill(stack.process(worker), signal.SIGKILL)
    yield


def stop_process(stack, worker, _generator):
    process = stack.process(worker)
    os.kill(process, signal.SIGSTOP)
    yield
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def crash_container(_stack, worker, _generator):
    # its first process: after `docker kill` the engine would take the end for meant, and leave it there
    os.kill(worker.attrs["State"]["Pid"], signal.SIGKILL)
    yield


def kill_container(_stack, worker, _generator):
    worker.kill()
    yield
    worker.start()


def pause_container(_stack, worker, _generator):
    worker.pause()
    yield
    worker.unpause()


def cut_worker_off(stack, worker, _generator):
    stack.network().disconnect(worker)
    yield
    stack.network().connect(worker)


def cut_storage_off(stack, _worker, _generator):
    stack.network().disconnect(stack.storage())
    yield
    stack.network().connect(stack.storage(), aliases=["storage"])


def kill_storage(stack, _worker, _generator):
    stack.storage().kill()
    yield
    stack.storage().start()


def pause_storage(stack, _worker, _generator):
    stack.storage().pause()
    yield
    stack.storage().unpause()


def crash_container_without_storage(stack, worker, generator):
    next(crash_container(stack, worker, generator))
    yield from kill_storage(stack, worker, generator)


def fill_store(stack, _worker, _generator):
    filler = stack.store / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError:
        yield
    filler.unlink()


def step_clock(stack, _worker, generator):
    seconds = generator.choice((-1, 1)) * generator.uniform(1.5, 3) * LEASE_SECONDS
    stack.sql(f"UPDATE public.chaos_clock SET step = '{seconds:.3f} s'")
    yield
    stack.sql("UPDATE public.chaos_clock SET step = '0'")


def restart_engine(stack, _worker, _generator):
    stack.engine.stop(signal.SIGTERM)
    yield
    stack.engine.start()


def kill_engine(stack, _worker, _generator):
    stack.engine.stop(signal.SIGKILL)
    yield
    stack.engine.start()


KINDS = (
    Kind("worker process killed", (WORKER,), AT_ONCE, kill_process),
    Kind("worker process stopped, for longer than its lease", (WORKER,), LONGER_THAN_LEASE, stop_process),
    Kind("worker container crashed", (WORKER,), AT_ONCE, crash_container),
    Kind("worker container: `docker kill`, later `docker start`", (WORKER,), (2, 15), kill_container),
    Kind("worker container paused, for longer than its lease", (WORKER,), LONGER_THAN_LEASE, pause_container),
    Kind("worker container cut off, for less than its lease", (WORKER,), SHORTER_THAN_LEASE, cut_worker_off),
    Kind("worker container cut off, for longer than its lease", (WORKER,), LONGER_THAN_LEASE, cut_worker_off),
    Kind("storage killed, later started", (STORAGE,), (2, 15), kill_storage),
    Kind("storage paused, for less than a lease", (STORAGE,), SHORTER_THAN_LEASE, pause_storage),
    Kind("storage paused, for longer than a lease", (STORAGE,), LONGER_THAN_LEASE, pause_storage),
    Kind("storage cut off", (STORAGE,), (2, 15), cut_storage_off),
    Kind(
        "worker container crashed while the storage is away",
        (WORKER, STORAGE),
        (30, 45),
        crash_container_without_storage,
    ),
    Kind("artifact store full", (STORE,), (5, 15), fill_store),
    Kind("storage's clock stepped, and back", (STORAGE,), (5, 15), step_clock),
    Kind("engine restarted", (ENGINE,), (1, 5), restart_engine),
    Kind("engine killed, later started", (ENGINE,), (1, 5), kill_engine),
)


def plan(faults: int, generator: random.Random) -> list[Kind]:
    """Every kind as often as every other, or once more, in a random order."""
    kinds = [KINDS[index % len(KINDS)] for index in range(faults)]
    generator.shuffle(kinds)
    return kinds
