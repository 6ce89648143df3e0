import json
import re

import pytest
import sqlalchemy as sa

from model.errors import ConfigError
from service.dashboard import metrics
from service.dashboard.serve import wsgi
from service.storage.database import open_storage
from tests.conftest import ROOT


@pytest.fixture
def engine(finished):
    storage = open_storage(finished.settings)
    yield storage.engine
    storage.engine.dispose()


def samples(text):
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    return found


def test_metrics_say_how_a_study_stands(engine, finished):
    found = samples(metrics.page(engine))
    best = min(trial.value for trial in finished.trials())
    assert found['hptune_trials{study="tiny",state="complete"}'] == 3
    assert found['hptune_trials{study="tiny",state="running"}'] == 0
    assert found['hptune_slots{study="tiny",state="closed"}'] == 3
    assert found['hptune_best_loss{study="tiny"}'] == best
    budget = max(finished.trials()[0].intermediate_values)
    assert found['hptune_trained_tokens_total{study="tiny"}'] == 3 * budget
    assert found["hptune_storage_scrape_seconds"] > 0


def test_every_family_says_what_it_is(engine):
    text = metrics.page(engine)
    families = re.findall(r"^# TYPE (\w+) (?:gauge|counter)$", text, re.MULTILINE)
    assert len(families) == len(set(families)) >= 7
    for name in samples(text):
        assert name.split("{")[0] in families


def test_a_leased_slot_and_its_worker_are_counted(tiny):
    tiny.create(2)
    worker = tiny.worker()
    storage = open_storage(tiny.settings)
    assert worker._claims.claim() is not None
    found = samples(metrics.page(storage.engine))
    assert found['hptune_leases{study="tiny",lease="alive"}'] == 1
    assert [value for name, value in found.items() if name.startswith("hptune_workers")] == [1]
    worker._opened.close()
    storage.engine.dispose()


def test_names_are_escaped():
    metric = metrics._Metric("a", "gauge", "b")
    metric.add(1, study='x"\n\\')
    assert list(metric.lines())[-1] == 'a{study="x\\"\\n\\\\"} 1'


def ask(application, path, **headers):
    answered = []
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "HTTP_HOST": "localhost", **headers,
    }  # fmt: skip
    body = b"".join(application(environ, lambda status, *_: answered.append(status)))
    return answered[0], body.decode()


def test_they_are_behind_the_password_and_off_unless_asked_for(finished, monkeypatch):
    monkeypatch.setenv("HPTUNE_METRICS", "1")
    status, text = ask(wsgi(finished.settings, password=None), "/metrics")
    assert status == "200 OK"
    assert "hptune_trials" in text
    assert ask(wsgi(finished.settings, password="p"), "/metrics")[0] == "401 Unauthorized"
    monkeypatch.setenv("HPTUNE_METRICS", "yes")
    with pytest.raises(ConfigError, match="HPTUNE_METRICS: given 'yes', allowed: 0, 1"):
        wsgi(finished.settings, password=None)


def test_a_storage_that_is_away_is_said(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/nothing/here.db")
    application = metrics.with_metrics(lambda *_: [], engine)
    assert ask(application, "/metrics") == ("503 Service Unavailable", "the storage does not answer\n")


def test_the_board_asks_for_metrics_that_there_are(engine):
    board = json.loads((ROOT / "cluster" / "grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"hptune_\w+", target["expr"])
    }
    given = set(re.findall(r"^# TYPE (\w+)", metrics.page(engine), re.MULTILINE)) | {
        "hptune_storage_connections"
    }
    assert asked == given
