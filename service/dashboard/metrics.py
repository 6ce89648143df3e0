"""`/metrics` for Prometheus, beside the dashboard and behind its password: how the studies of a storage stand.

Counted in the database, whatever the number of trials. Off unless HPTUNE_METRICS is 1.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from model.errors import ConfigError
from service.storage.optuna_private import STUDIES as _STUDIES
from service.storage.optuna_private import TRIAL_LOSSES as _LOSSES
from service.storage.optuna_private import TRIAL_USER_ATTRIBUTES as _ATTRIBUTES
from service.storage.optuna_private import TRIAL_VALUES as _VALUES
from service.storage.optuna_private import TRIALS as _TRIALS
from service.storage.ownership import SLOT
from service.storage.schema import SLOTS, WORKERS, database_time

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
SETTING = "HPTUNE_METRICS"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class _Metric:
    """One family of samples."""

    name: str
    kind: str
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        self.samples.append((labels, value))

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{self.name}{{{inside}}} {value:.17g}" if inside else f"{self.name} {value:.17g}"


def is_on(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks for metrics. Raises ConfigError: it cannot be told."""
    given = environment.get(SETTING) or "0"
    if given not in ("0", "1"):
        raise ConfigError(f"{SETTING}: given {given!r}, allowed: 0, 1")
    return given == "1"


def with_metrics(application: Application, engine: sa.Engine) -> Application:
    """The application, with `/metrics` of the storage in front of it."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/metrics":
            return application(environ, start_response)
        try:
            status, text = "200 OK", page(engine)
        except sa.exc.SQLAlchemyError:
            status, text = "503 Service Unavailable", "the storage does not answer\n"
        content = text.encode()
        start_response(status, [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(content)))])
        return [content]

    return answer


def page(engine: sa.Engine) -> str:
    """The metrics in Prometheus' text format. Raises SQLAlchemyError: the storage cannot be read."""
    began = time.perf_counter()
    with engine.connect() as connection:
        metrics = [*_metrics(connection, engine)]
    seconds = _Metric(
        "hptune_storage_scrape_seconds", "gauge", "What reading these metrics from the storage took."
    )
    seconds.add(time.perf_counter() - began)
    return "".join(f"{line}\n" for metric in (*metrics, seconds) for line in metric.lines())


def _metrics(connection: sa.Connection, engine: sa.Engine) -> Iterator[_Metric]:
    names = {row.study_id: row.study_name for row in connection.execute(sa.select(_STUDIES))}

    trials = _Metric("hptune_trials", "gauge", "Trials by state.")
    by_state = sa.select(_TRIALS.c.study_id, _TRIALS.c.state, sa.func.count().label("n"))
    counts = {
        (row.study_id, row.state): row.n
        for row in connection.execute(by_state.group_by(_TRIALS.c.study_id, _TRIALS.c.state))
    }
    for study_id, name in names.items():
        for state in TrialState:
            trials.add(counts.get((study_id, state), 0), study=name, state=state.name.lower())
    yield trials

    slots = _Metric("hptune_slots", "gauge", "Trials that shall finish, by what has become of them.")
    of_slots = sa.select(SLOTS.c.study_id, SLOTS.c.state, sa.func.count().label("n")).where(SLOTS.c.slot >= 0)
    for name, row in _named(connection, of_slots.group_by(SLOTS.c.study_id, SLOTS.c.state), names):
        slots.add(row.n, study=name, state=row.state)
    yield slots

    leases = _Metric(
        "hptune_leases", "gauge", "Slots that a worker holds (alive), or held when it vanished (expired)."
    )
    alive = sa.case((SLOTS.c.leased_until >= database_time(engine), 1), else_=0).label("alive")
    of_leases = sa.select(SLOTS.c.study_id, alive, sa.func.count().label("n")).where(
        SLOTS.c.state == "leased"
    )
    for name, row in _named(connection, of_leases.group_by(SLOTS.c.study_id, alive), names):
        leases.add(row.n, study=name, lease="alive" if row.alive else "expired")
    yield leases

    workers = _Metric(
        "hptune_workers", "gauge", "Workers that have been heard of within their lease, by device."
    )
    of_workers = sa.select(WORKERS.c.study_id, WORKERS.c.device, sa.func.count().label("n"))
    of_workers = of_workers.where(WORKERS.c.alive_until >= database_time(engine))
    for name, row in _named(connection, of_workers.group_by(WORKERS.c.study_id, WORKERS.c.device), names):
        workers.add(row.n, study=name, device=row.device)
    yield workers

    best = _Metric(
        "hptune_best_loss",
        "gauge",
        "The smallest val_loss of a complete trial, in nats per character; of own training code, of its metric.",
    )
    of_best = sa.select(_TRIALS.c.study_id, sa.func.min(_VALUES.c.value).label("value"))
    of_best = of_best.join_from(_TRIALS, _VALUES).where(_TRIALS.c.state == TrialState.COMPLETE)
    for row in connection.execute(of_best.group_by(_TRIALS.c.study_id)):
        if row.value is not None:
            best.add(row.value, study=names[row.study_id])
    yield best

    tokens = _Metric(
        "hptune_trained_tokens_total", "counter", "Tokens up to the furthest rung of every slot."
    )
    furthest = (
        sa.select(_TRIALS.c.study_id, sa.func.max(_LOSSES.c.step).label("step"))
        .join_from(_TRIALS, _LOSSES)
        .join(_ATTRIBUTES, (_ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id) & (_ATTRIBUTES.c.key == SLOT))
        # a trial that goes on for another one has its rungs, too, and the same slot
        .group_by(_TRIALS.c.study_id, _ATTRIBUTES.c.value_json)
        .subquery()
    )
    of_tokens = sa.select(furthest.c.study_id, sa.func.sum(furthest.c.step).label("n")).group_by(
        furthest.c.study_id
    )
    for row in connection.execute(of_tokens):
        tokens.add(float(row.n), study=names[row.study_id])
    yield tokens

    if engine.dialect.name == "postgresql":
        yield _connections(connection)


def _named(
    connection: sa.Connection, query: sa.Select[Any], names: Mapping[int, str]
) -> Iterator[tuple[str, Any]]:
    """Rows with the names of their studies, without those of studies that are gone."""
    for row in connection.execute(query):
        if row.study_id in names:
            yield names[row.study_id], row


def _connections(connection: sa.Connection) -> _Metric:
    found = _Metric("hptune_storage_connections", "gauge", "Connections to the storage; waiting: for a lock.")
    query = sa.text(
        "SELECT CASE WHEN wait_event_type = 'Lock' THEN 'waiting' ELSE state END AS state, count(*) AS n"
        " FROM pg_stat_activity WHERE datname = current_database() AND state IS NOT NULL GROUP BY 1"
    )
    counts = {row.state: row.n for row in connection.execute(query)}
    for state in sorted({"active", "idle", "waiting", *counts}):
        found.add(counts.get(state, 0), state=state)
    return found


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
