"""What calls on a busy study cost: thousands of finished trials and a hundred running ones, on one PostgreSQL.

    .venv/bin/python -m tests.benchmarks.busy_study [--finished 5000] [--running 100] [--whole-report] [--json FILE]

Needs the server programs of PostgreSQL. Beside the clock, it measures the processor's time in this process and in the
server, which says the same on a machine that has other things to do, and counts statements. Trials are copies of a real
one, with curves and points of their own.
"""

import argparse
import contextlib
import io
import json
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import optuna
import psycopg
import sqlalchemy as sa
from optuna.trial import TrialState

from service.dashboard.serve import wsgi
from service.machine import status
from service.report.page import files
from service.report.record import study_record
from service.storage import added
from service.storage.artifact_stores import open_store
from service.storage.artifacts import CHECKPOINT
from service.storage.database import open_storage
from service.storage.ownership import SLOT, key_of
from service.storage.studies import load_study
from service.storage.study_storage import together
from service.study.pruners import build_pruner
from service.study.samplers import build_sampler
from tests import conftest, fast_run
from tests.benchmarks.storage import RUNGS, SPACE, server_seconds

REPEATS = 20


class Meter:
    """Milliseconds by the clock and of the processors, and statements, of the calls of one name."""

    def __init__(self, server: conftest.PostgreSQL) -> None:
        self._server = server
        self._statements = 0
        sa.event.listen(sa.Engine, "before_cursor_execute", self._count)
        self.calls: dict[str, list[tuple[float, float, float, int]]] = {}

    def _count(self, *_: object) -> None:
        self._statements += 1

    @contextlib.contextmanager
    def of(self, name: str, times: int = 1):
        before = (time.perf_counter(), time.process_time(), server_seconds(self._server), self._statements)
        yield
        after = (time.perf_counter(), time.process_time(), server_seconds(self._server), self._statements)
        clock, here, there, statements = (b - a for a, b in zip(before, after, strict=True))
        per = (1000 * clock / times, 1000 * here / times, 1000 * there / times, statements // times)
        self.calls.setdefault(name, []).append(per)

    def table(self) -> dict[str, list[float]]:
        """Medians; of the server's time, which has steps, the mean."""
        kinds = (statistics.median, statistics.median, statistics.mean, statistics.median)
        return {
            name: [kind(column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)]
            for name, rows in self.calls.items()
        }


def fill(url: str, study_id: int, *, finished: int, running: int) -> None:
    """Copies of the study's one trial: `finished` complete and pruned ones, then `running` ones."""
    generator = random.Random(0)
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        [(first,)] = connection.execute(
            "SELECT trial_id FROM trials WHERE study_id = %s", (study_id,)
        ).fetchall()
        for number in range(1, finished + running + 1):
            state = "RUNNING" if number > finished else generator.choice(["COMPLETE", "PRUNED", "PRUNED"])
            last = RUNGS if state == "COMPLETE" else 5
            [trial] = connection.execute(
                "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)"
                " SELECT %s, study_id, %s, datetime_start, CASE WHEN %s THEN datetime_complete END"
                " FROM trials WHERE trial_id = %s RETURNING trial_id",
                (number, state, state != "RUNNING", first),
            ).fetchone()
            connection.execute(
                "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) SELECT %s, param_name,"
                " CASE WHEN param_name LIKE '%%batch%%' THEN param_value ELSE param_value * (0.9 + 0.2 * random()) END,"
                " distribution_json FROM trial_params WHERE trial_id = %s",
                (trial, first),
            )
            for table in ("trial_user_attributes", "trial_system_attributes"):
                connection.execute(
                    f"INSERT INTO {table} (trial_id, key, value_json)"
                    f" SELECT %s, key, value_json FROM {table} WHERE trial_id = %s",
                    (trial, first),
                )
            connection.execute(
                "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)"
                " SELECT %s, step, random(), 'FINITE' FROM trial_intermediate_values WHERE trial_id = %s"
                " ORDER BY step LIMIT %s",
                (trial, first, last),
            )
            if state != "RUNNING":
                connection.execute(
                    "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (%s, 0, %s, 'FINITE')",
                    (trial, generator.random()),
                )
        connection.execute("SELECT setval('trials_trial_id_seq', (SELECT max(trial_id) FROM trials))")


def end_one(url: str, study_id: int) -> None:
    """Another worker's trial ends, and the next one begins."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        [trial] = connection.execute(
            "UPDATE trials SET state = 'COMPLETE', datetime_complete = now() WHERE trial_id ="
            " (SELECT min(trial_id) FROM trials WHERE study_id = %s AND state = 'RUNNING') RETURNING trial_id",
            (study_id,),
        ).fetchone()
        connection.execute(
            "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (%s, 0, 0.5, 'FINITE')",
            (trial,),
        )


def measure(
    tiny: conftest.TinyStudy, meter: Meter, *, finished: int, running: int, whole_report: bool
) -> None:
    settings = tiny.settings
    tiny.write(SPACE, **{"training.rungs": RUNGS, "training.batch_size": None})
    tiny.create(1)
    fast_run.train_fast()
    fast_run.FastRun.step_seconds = 0.0
    tiny.worker().work()
    storage = open_storage(settings)
    study, definition = load_study(storage, "tiny", settings)
    fill(settings.storage_url, study._study_id, finished=finished, running=running)
    with psycopg.connect(settings.storage_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("ANALYZE")

    with meter.of("a worker's first look at the study"):
        study.get_trials(deepcopy=False)
    storage.seen = added.as_seen(definition.space, key_of(study).generation)
    storage.attributes = (SLOT, CHECKPOINT, "arm")  # as a worker's
    rungs = definition.base_config.with_tokens(study.user_attrs["corpus"]["budget_tokens"]).rungs
    study.pruner = build_pruner(definition.pruner, rungs=rungs)
    # draws at random: the time that the model of a sampler takes is not the storage's
    study.sampler = build_sampler(definition.sampler, seed=1, space=definition.space.distributions)
    study.sampler._n_startup_trials = 10**9  # type: ignore[attr-defined]
    for _ in range(REPEATS):
        with meter.of("ask, with five parameters"):
            study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            study.get_trials(deepcopy=False)
            number = study._storage.create_new_trial(study._study_id)
            trial = optuna.Trial(study, number)
            with together(trial):
                definition.space.suggest(trial)
        end_one(settings.storage_url, study._study_id)
        for tokens in rungs[:5]:
            trial.report(0.5, tokens)
        with meter.of("report and decision"):
            trial.report(0.5, rungs[5])
            trial.should_prune()
        study.tell(trial.number, state=TrialState.PRUNED)
    storage.engine.dispose()

    with meter.of("status, at first"):
        take = status.take(settings, "tiny")
        take()
    for _ in range(3):
        with meter.of("status --watch, each look"):
            take()
    application = wsgi(settings, password=None)

    def get(path: str) -> bytes:
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "localhost",
            "SERVER_PORT": "1", "HTTP_HOST": "localhost", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
            "wsgi.url_scheme": "http",
        }  # fmt: skip
        statuses: list[str] = []
        body = b"".join(application(environ, lambda status, *_: statuses.append(status)))
        assert statuses == ["200 OK"], (path, statuses, body[:200])
        return body

    with meter.of("the dashboard's first page, at first"):
        get("/api/studies")
        get(f"/api/studies/{study._study_id}")
    with meter.of("the dashboard's first page, again"):
        get("/api/studies")
        get(f"/api/studies/{study._study_id}")
    storage = open_storage(settings)
    study, definition = load_study(storage, "tiny", settings)
    with meter.of("report: read the study"):
        study_record.read(study, definition, open_store(settings.artifacts))
    if whole_report:
        with meter.of("report: all of it"):
            files.write(study, definition, settings, folder=tiny.folder / "report", result=None)
    storage.engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--finished", type=int, default=5000)
    parser.add_argument("--running", type=int, default=100)
    parser.add_argument("--whole-report", action="store_true", help="Its figures and files, too: minutes.")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    with (
        tempfile.TemporaryDirectory(prefix="hptune-postgresql-") as data,
        tempfile.TemporaryDirectory() as folder,
    ):
        server = conftest.PostgreSQL(found[-1].parent, Path(data), conftest.free_port())
        server.initialise()
        server.start()
        meter = Meter(server)
        try:
            tiny = conftest.tiny_study(Path(folder))
            tiny = replace(
                tiny, settings=replace(tiny.settings, storage_url=server.new_database(), lease_seconds=60.0)
            )
            measure(
                tiny,
                meter,
                finished=arguments.finished,
                running=arguments.running,
                whole_report=arguments.whole_report,
            )
        finally:
            server.stop("immediate")
            for name, row in meter.table().items():
                print(f"{name:40} " + " ".join(f"{cell:9.1f}" for cell in row), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(meter.table(), indent=1))


if __name__ == "__main__":
    main()
