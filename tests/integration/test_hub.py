"""`./hptune.sh` against a hub of a million rows that fails in every way a hub does, and then is gone."""

import os
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, WORDS
from tests.hub import Fault, Hub

pytestmark = pytest.mark.integration

SMALL = {
    "data.num_documents": 4400,
    "data.validation_fraction": 0.5,  # the largest window of the space has to fit
    "data.held_out_documents": 200,
    "training.epochs": "null",
    "training.tokens": 9000,
    "training.rungs": 2,
}
DATASET = "datasets/julien040/hacker-news-posts"


@pytest.fixture
def a_million_rows(tmp_path):
    folder = tmp_path / "hub" / DATASET / "data"
    folder.mkdir(parents=True)
    rows = 1_000_000
    first, second = WORDS, [f"{a} {b}" for a in WORDS for b in WORDS]
    titles = [f"{first[i * 7 % 20]} {second[i * 13 % 400]} {i} {second[i * 31 % 400]}" for i in range(rows)]
    for i in range(2):
        part = titles[i * rows // 2 : (i + 1) * rows // 2]
        table = pa.table({"id": np.arange(len(part)), "title": part, "url": part})
        pq.write_table(table, folder / f"train-0000{i}-of-00002.parquet")
    with Hub(tmp_path / "hub", xet=True) as hub:
        yield hub


@pytest.fixture
def run(tmp_path, a_million_rows):
    """Runs a command with all it makes in a folder of the test's own; what it printed."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HPTUNE_STORAGE_URL": f"sqlite:///{tmp_path / 'study.db'}",
        "HPTUNE_ARTIFACTS": str(tmp_path / "artifacts"),
        "HPTUNE_CACHE": str(tmp_path / "cache"),
        "HPTUNE_CURVES": str(tmp_path / "curves"),
        "HPTUNE_DEVICE": "cpu",
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": a_million_rows.url,
        "PYTHONPATH": str(ROOT),
        "GOMP_SPINCOUNT": "1000",  # beside other work, spinning threads would take minutes
    }
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]

    def run(*command, **variables):
        done = subprocess.run(
            [*command, *settings],
            env={**environment, **variables},
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert "Traceback" not in done.stdout
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def test_a_million_rows_come_through_a_hub_that_fails(run, a_million_rows, tmp_path):
    hub = a_million_rows
    hub.faults = [
        Fault("/api/datasets/", "status", status=429, headers={"Retry-After": "1"}),
        Fault("/api/datasets/", "status", status=503),
        Fault("cdn/.*00000-of", "cut", sent_bytes=5_000_000, times=3),
        Fault("resolve/.*00001-of", "status", status=503, headers={"Retry-After": "1"}),
        Fault("cdn/.*00001-of", "corrupt", method="GET"),
    ]
    said = run(ROOT / "hptune.sh", "2", "--study", "hn")
    commit = hub.commit("datasets", "julien040/hacker-news-posts")
    assert all(fault.times == 0 for fault in hub.faults)
    assert f"corpus: hub julien040/hacker-news-posts at {commit}; 0 duplicates dropped" in said
    for expected in (
        r"asking 127\.0\.0\.1:\d+ for julien040/hacker-news-posts",
        r"answers 429 Too Many Requests: trying again in 1\.0 s",
        r"answers 503 Service Unavailable: trying again in ",
        r"fetching julien040/hacker-news-posts: 2 files, [\d.]+ MB",
        r"study hn: [1-9]\d* complete",
    ):
        assert re.search(expected, said), said
    assert not any("xet" in asked.path for asked in hub.asked)

    # again without a connection, and with the library's own switch: the commit that is here
    hub.asked.clear()
    create = (sys.executable, "-m", "service", "create", "hn", "--set", "data.hub.first_rows=20000")
    assert f"at {commit}" in run(*create, "--name", "gone", HF_ENDPOINT="http://127.0.0.1:9")
    assert f"at {commit}" in run(*create, "--name", "offline", HF_HUB_OFFLINE="1")
    assert hub.asked == []
