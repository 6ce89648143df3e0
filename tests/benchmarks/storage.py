"""What the storage costs: time of its calls a trial and a report, with more and more workers on one PostgreSQL.

    .venv/bin/python -m tests.benchmarks.storage [--workers 1 8 32 100] [--rung-seconds 1]

Needs the server programs of PostgreSQL. Training is a fake that sleeps, so that all the work is the storage's: that of
the server and that of Optuna in the workers. Writes tests/benchmarks/results/storage.md.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import psycopg

from service.storage import outages
from tests import conftest, fast_run

RUNGS = 8
RESULT = Path(__file__).parent / "results" / "storage.md"
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


def measure(workers: int, folder: Path, url: str, clock: Clock) -> dict:
    study = conftest.tiny_study(folder)
    study = dataclasses.replace(
        study, settings=dataclasses.replace(study.settings, storage_url=url, lease_seconds=60.0)
    )
    trials = max(8, 2 * workers)
    study.write(SPACE, **{"training.rungs": RUNGS, "training.batch_size": None})
    study.create(trials)
    started = time.perf_counter()
    children = []
    for index in range(workers):
        path = folder / f"clock-{index}.json"  # each child has a copy of the clock, and writes down its own

        def write(path=path):
            path.write_text(json.dumps(clock.durations))

        children.append(fast_run.fork_worker(study.settings, "tiny", f"worker-{index}", at_end=write))
    connections = []
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            children.remove(child)
            if status:
                raise SystemExit(f"a worker failed: {status}")
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hptune'"
            ).fetchone()
            connections.append(count)
        time.sleep(0.5)
    seconds = time.perf_counter() - started
    found = study.trials()
    states = Counter(trial.state.name for trial in found)
    assert states["COMPLETE"] + states["PRUNED"] == trials == len(found), states
    durations: dict[str, list[float]] = {}
    for path in folder.glob("clock-*.json"):
        for kind, values in json.loads(path.read_text()).items():
            durations.setdefault(kind, []).extend(values)
    return {
        "workers": workers,
        "trials": trials,
        "seconds": seconds,
        "connections": max(connections),
        "storage_per_trial": sum(durations["storage"]) / trials,
        "calls_per_trial": len(durations["storage"]) / trials,
        **{kind: quantiles(durations[kind]) for kind in ("report", "should_prune", "storage")},
    }


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """Median and 95th percentile, in milliseconds."""
    return 1000 * statistics.median(seconds), 1000 * float(np.quantile(seconds, 0.95))


def table(results: list[dict], rung_seconds: float, version: str) -> str:
    rows = "".join(
        f"| {r['workers']} | {r['trials']} | {r['seconds']:.0f} s | {r['connections']} "
        f"| {r['report'][0]:.1f} / {r['report'][1]:.1f} | {r['should_prune'][0]:.1f} / {r['should_prune'][1]:.1f} "
        f"| {r['storage'][0]:.1f} / {r['storage'][1]:.1f} | {r['calls_per_trial']:.0f} "
        f"| {r['storage_per_trial']:.2f} s |\n"
        for r in results
    )
    return f"""# What the storage costs

PostgreSQL {version} (fsync off) and all workers on one machine: {os.cpu_count()} cores, {platform.machine()}.
TPE over five parameters, median pruning in the second half of {RUNGS} rungs, a rung every {rung_seconds:g} s of no
work: the time is that of the server and of Optuna in the workers, whose start-up counts as well. Every study ended
with exactly its trials. Times of calls in milliseconds, median / 95th percentile; the last column is a trial's time
in all storage calls together.
Made by `python -m tests.benchmarks.storage`.

| workers | trials | took | connections | report | should_prune | any storage call | calls a trial | storage a trial |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 32, 100])
    parser.add_argument("--rung-seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    clock = Clock()
    clock.time(outages.Patience, "__call__", "storage")
    clock.time(optuna.Trial, "report", "report")
    clock.time(optuna.Trial, "should_prune", "should_prune")
    fast_run.train_fast()
    fast_run.FastRun.step_seconds = arguments.rung_seconds / fast_run.STEPS_PER_RUNG
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    results = []
    with tempfile.TemporaryDirectory(prefix="hptune-postgresql-") as data:
        server = conftest.PostgreSQL(found[-1].parent, Path(data), conftest.free_port())
        server.initialise()
        server.start()
        try:
            for workers in arguments.workers:
                with tempfile.TemporaryDirectory() as folder:
                    url = server.new_database()
                    results.append(measure(workers, Path(folder), url, clock))
                print(json.dumps(results[-1]))
        finally:
            server.stop("immediate")
    version = found[-1].parent.parent.name
    RESULT.write_text(table(results, arguments.rung_seconds, version))
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
