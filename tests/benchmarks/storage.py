"""What the storage costs: time of its calls, and what they ask of one PostgreSQL, with more and more workers.

    .venv/bin/python -m tests.benchmarks.storage [--workers 1 8 32 100] [--rung-seconds 1] [--json FILE]

Needs the server programs of PostgreSQL. Training is a fake that sleeps, so that all the work is the storage's: that of
the server and that of Optuna in the workers. Prints two tables; tests/benchmarks/results/storage.md has those of some
runs beside each other.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import socket
import statistics
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import psycopg
import sqlalchemy as sa

from service.storage import outages
from service.trials.resumption import Lineages
from tests import conftest, fast_run

RUNGS = 8
SPACE = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  optimizer.weight_decay: {type: float, low: 0.01, high: 0.5, log: true}
  model.dropout: {type: float, low: 0.0, high: 0.3}
  schedule.warmup_fraction: {type: float, low: 0.0, high: 0.3}
  training.batch_size: {type: categorical, choices: [8, 16]}
sampler: {name: tpe, startup_trials: 10}
pruner: {name: median, warmup_fraction: 0.5, startup_trials: 5}
baseline: false
"""


class Clock:
    """Durations of calls, in seconds, by what was called; calls within timed calls are not counted again."""

    def __init__(self) -> None:
        self.durations: dict[str, list[float]] = {}
        self._depth = 0

    def time(self, owner, name, kind):
        method = getattr(owner, name)

        def call(*arguments, **keywords):
            if kind == "storage" and self._depth:
                return method(*arguments, **keywords)
            self._depth += kind == "storage"
            started = time.perf_counter()
            try:
                return method(*arguments, **keywords)
            finally:
                self._depth -= kind == "storage"
                self.durations.setdefault(kind, []).append(time.perf_counter() - started)

        setattr(owner, name, call)


class Traffic:
    """Bytes that this process and the server have sent each other, as the kernel counts them for each connection."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        sa.event.listen(sa.pool.Pool, "checkin", self._count)

    def _count(self, connection: psycopg.Connection | None, record: object) -> None:
        with contextlib.suppress(OSError, AttributeError, psycopg.Error):  # one that is gone
            with socket.socket(fileno=os.dup(connection.fileno())) as own:
                port = own.getsockname()[1]
                info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
            # tcpi_bytes_acked and tcpi_bytes_received of linux/tcp.h
            self.bytes[port] = sum(struct.unpack_from("QQ", info, 120))


def server_seconds(server: conftest.PostgreSQL) -> float:
    """Processor's time of all the server's processes that there are and were, in steps of 10 ms."""
    postmaster = (Path(server.data) / "postmaster.pid").read_text().splitlines()[0]
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    ticks = sum(map(int, Path(f"/proc/{postmaster}/stat").read_text().rpartition(")")[2].split()[13:15]))
    for pid in children:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / 100


def statements(url: str) -> int:
    """That the server has been sent so far, those that begin and end a transaction among them."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        [(calls,)] = connection.execute("SELECT sum(calls)::bigint FROM pg_stat_statements").fetchall()
    return calls


def measure(
    workers: int, folder: Path, server: conftest.PostgreSQL, clock: Clock, traffic: Traffic, trials: int
) -> dict:
    url = server.new_database()
    study = conftest.tiny_study(folder)
    study = dataclasses.replace(
        study, settings=dataclasses.replace(study.settings, storage_url=url, lease_seconds=60.0)
    )
    trials = max(8, trials * workers)
    study.write(SPACE, **{"training.rungs": RUNGS, "training.batch_size": None})
    study.create(trials)
    sent, busy, started = statements(url), server_seconds(server), time.perf_counter()
    children = []
    for index in range(workers):
        path = folder / f"clock-{index}.json"  # each child has a copy of the clock, and writes down its own

        def write(path=path):
            used = time.process_time()
            path.write_text(json.dumps([clock.durations, sum(traffic.bytes.values()), used]))

        children.append(fast_run.fork_worker(study.settings, "tiny", f"worker-{index}", at_end=write))
    connections = []
    while children:
        while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            children.remove(ended[0])
            if ended[1]:
                raise SystemExit(f"a worker failed: {ended[1]}")
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hptune'"
            ).fetchone()
            connections.append(count)
        time.sleep(1.0)
    seconds, busy = time.perf_counter() - started, server_seconds(server) - busy
    sent = statements(url) - sent - 3 * len(connections)  # less those of this loop
    found = study.trials()
    states = Counter(trial.state.name for trial in found)
    assert states["COMPLETE"] + states["PRUNED"] == trials == len(found), states
    durations: dict[str, list[float]] = {}
    moved, used = 0, 0.0
    for path in folder.glob("clock-*.json"):
        own, bytes_, seconds_ = json.loads(path.read_text())
        moved, used = moved + bytes_, used + seconds_
        for kind, values in own.items():
            durations.setdefault(kind, []).extend(values)
    return {
        "workers": workers,
        "trials": trials,
        "seconds": seconds,
        "connections": max(connections),
        "storage_per_trial": sum(durations["storage"]) / trials,
        "calls_per_trial": len(durations["storage"]) / trials,
        "statements_per_trial": sent / trials,
        "statements_per_second": sent / seconds,
        "kilobytes_per_trial": moved / trials / 1000,
        "kilobytes_per_second": moved / seconds / 1000,
        "server_cores": busy / seconds,
        "worker_cores": used / seconds,
        **{kind: quantiles(values) for kind, values in durations.items()},
    }


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """Median and 95th percentile, in milliseconds."""
    return 1000 * statistics.median(seconds), 1000 * float(np.quantile(seconds, 0.95))


def cell(milliseconds: tuple[float, float]) -> str:
    return f"{milliseconds[0]:.1f} / {milliseconds[1]:.1f}"


def table(results: list[dict], rung_seconds: float, version: str) -> str:
    rows = "".join(
        f"| {r['workers']} | {r['trials']} | {r['seconds']:.0f} s | {r['connections']} | {cell(r['new trial'])} "
        f"| {cell(r['values'])} | {cell(r['report'])} | {cell(r['should_prune'])} | {cell(r['storage'])} "
        f"| {r['calls_per_trial']:.0f} | {r['storage_per_trial']:.2f} s |\n"
        for r in results
    )
    asked = "".join(
        f"| {r['workers']} | {r['statements_per_trial']:.0f} | {r['kilobytes_per_trial']:.0f} "
        f"| {r['statements_per_second']:.0f} | {r['kilobytes_per_second']:.0f} | {r['server_cores']:.2f} "
        f"| {r['worker_cores']:.2f} |\n"
        for r in results
    )
    return f"""
PostgreSQL {version}, {os.cpu_count()} cores, {platform.machine()}, {RUNGS} rungs, one every {rung_seconds:g} s

| workers | trials | took | connections | new trial | its values | report | decision | any call | calls | all calls |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}
| workers | statements a trial | kB a trial | statements a second | kB a second | server | workers |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{asked}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 32, 100])
    parser.add_argument("--rung-seconds", type=float, default=1.0)
    parser.add_argument("--trials", type=int, default=2, help="Of each worker, in the mean; eight at least.")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    clock = Clock()
    clock.time(outages.Patience, "__call__", "storage")
    clock.time(optuna.Trial, "report", "report")
    clock.time(optuna.Trial, "should_prune", "should_prune")
    clock.time(Lineages, "trial_for", "new trial")
    clock.time(Lineages, "config_for", "values")
    traffic = Traffic()
    fast_run.train_fast()
    fast_run.FastRun.step_seconds = arguments.rung_seconds / fast_run.STEPS_PER_RUNG
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    results = []
    with tempfile.TemporaryDirectory(prefix="hptune-postgresql-") as data:
        server = conftest.PostgreSQL(found[-1].parent, Path(data), conftest.free_port())
        server.initialise()
        with (Path(server.data) / "postgresql.conf").open("a") as file:
            file.write("shared_preload_libraries = 'pg_stat_statements'\n")
        server.start()
        try:
            for workers in arguments.workers:
                with tempfile.TemporaryDirectory() as folder:
                    results.append(measure(workers, Path(folder), server, clock, traffic, arguments.trials))
                print(json.dumps(results[-1]), flush=True)
        finally:
            server.stop("immediate")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    print(table(results, arguments.rung_seconds, found[-1].parent.parent.name))


if __name__ == "__main__":
    main()
