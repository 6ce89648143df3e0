"""`/metrics` as a real Prometheus reads it, with the password."""

import json
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest

from tests.conftest import free_port
from tests.integration.processes import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="no prometheus (Debian: apt install prometheus)"
    ),
]


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)
    except OSError:
        return None


def test_prometheus_reads_the_metrics_behind_the_password(finished, tmp_path):
    dashboard, port = free_port(), free_port()
    command = finished.command("dashboard", "--port", str(dashboard))
    command["env"] |= {"HPTUNE_METRICS": "1", "HPTUNE_DASHBOARD_PASSWORD": "secret"}
    (tmp_path / "prometheus.yml").write_text(
        "scrape_configs:\n"
        "  - job_name: hptune\n"
        "    scrape_interval: 1s\n"
        "    basic_auth: {username: hptune, password: secret}\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{dashboard}']}}]\n"
    )
    arguments = [
        *("prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "log").open("w") as log:
        processes = [
            subprocess.Popen(**command, stdout=log, stderr=log),
            subprocess.Popen(arguments, stdout=log, stderr=log),
        ]
        try:

            def query(expression):
                asked = urllib.parse.urlencode({"query": expression})
                found = get(f"http://127.0.0.1:{port}/api/v1/query?{asked}")
                return found and [float(each["value"][1]) for each in found["data"]["result"]]

            [best] = wait_until("a scrape", lambda: query('hptune_best_loss{study="tiny"}'))
            assert best == min(trial.value for trial in finished.trials())
            assert query('hptune_trials{study="tiny",state="complete"}') == [3]
            targets = get(f"http://127.0.0.1:{port}/api/v1/targets")["data"]["activeTargets"]
            assert [target["lastError"] for target in targets] == [""]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=60)


def test_the_format_is_as_promtool_wants_it(finished):
    code = (
        "from service.settings import Settings; from service.storage.database import open_storage;"
        "from service.dashboard.metrics import page;"
        "print(page(open_storage(Settings.from_environment()).engine), end='')"
    )
    call = finished.command() | {"args": [sys.executable, "-c", code]}
    text = subprocess.run(**call, capture_output=True, check=True, timeout=120).stdout
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
